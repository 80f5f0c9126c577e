"""Who has joined, who is joining, and what each of them selects: the publisher serialises calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from datastream._watch.known import Known
from datastream._watch.routing import Route, Routes
from datastream._watch.subscription import Published, Sink, Subscription
from datastream.entry import Entry


class Members:
    """The subscriptions of one publisher."""

    def __init__(self) -> None:
        self.routes = Routes()
        self.joining = 0
        """How many have registered and not joined yet."""

    def sinks(self) -> Iterator[Sink]:
        """Where those who have joined take their batches, then those who have not."""
        for route in self.routes.all():
            yield from (subscription.sink for subscription in route.subscriptions)
        for route in self.routes.all():
            yield from (subscription.sink for subscription in route.joining)

    def is_watched(self, key: str) -> bool:
        """Whether somebody who has joined selects `key`."""
        return any(route.subscriptions for route in self.routes.of(key))

    def watched(self, entries: Iterable[Entry]) -> list[Entry]:
        """Those among `entries` whose key is watched."""
        return [entry for entry in entries if self.is_watched(entry.key)]

    def is_rest(self) -> bool:
        """Whether nobody has joined."""
        return not any(route.subscriptions for route in self.routes.all())

    def register(self, subscription: Subscription, number: int, *, is_idle: bool) -> bool:
        """Begin to keep what is published for it, at first or anew.

        Args:
            number: of the last read that has begun.
            is_idle: nothing is polled.

        Returns:
            Whether nobody else has the same selection.
        """
        is_new = False
        if subscription.route is None:
            is_new = subscription.selection not in self.routes
            subscription.route = self.routes.add(subscription.selection)
            subscription.route.joining.append(subscription)
            self.joining += 1
        subscription.buffer = []
        subscription.registered = number
        subscription.was_idle = is_idle
        return is_new

    def joined(self, subscription: Subscription) -> None:
        """From here on it is offered what is published."""
        route = subscription.route
        if route is not None:
            subscription.buffer = None
            route.joining.remove(subscription)
            route.subscriptions.append(subscription)
            self.joining -= 1

    def leave(self, subscription: Subscription) -> Route | None:
        """End a subscription; the route that it had, to be dropped if nobody else has it."""
        subscription.left = True
        route, subscription.route = subscription.route, None
        if route is None:
            return None
        if subscription.buffer is None:
            route.subscriptions.remove(subscription)
        else:
            route.joining.remove(subscription)
            self.joining -= 1
            subscription.buffer = None
        if not (route.subscriptions or route.joining):
            self.routes.remove(route)
        return route

    def buffer(self, published: Published, number: int | None = None) -> None:
        """Keep a reading for those that join; with `number`, of those that registered before."""
        if not self.joining:
            return
        for route in self.routes.all():
            for subscription in route.joining:
                was_asked = number is None or subscription.registered < number
                if subscription.buffer is not None and was_asked:
                    subscription.buffer.append(published)

    def forget_unwatched(self, route: Route, known: Known) -> None:
        """Nobody who has joined has `route` any more: forget the keys that only it selected."""
        selection = route.selection
        if self.routes.is_everything_watched():
            # Also where hundred thousands of keys are known, which takes a while.
            return
        exact = not (selection.prefixes or selection.patterns or selection.everything)
        gone = selection.keys if exact else list(filter(selection.matches, known.revisions))
        for key in gone:
            if not self.is_watched(key):
                known.forget(key)

    def rest(self) -> None:
        """Nobody has joined, so nothing is published for a while."""
        for route in self.routes.all():
            for subscription in route.joining:
                # What is published from the next position on is not all it has missed.
                subscription.was_idle = True
