"""Decides what is news to whom, and offers it: memory only, no I/O, no thread of its own.

The publisher stands at a position of the backend, the same for all joined subscriptions, and
knows the revision of every key they select. A reading is published only if it starts from that
position; else somebody was faster, and the caller reads again. So order needs no lock around I/O.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from datastream._watch.apart import Apart, News, Told
from datastream._watch.confirm_empty import ConfirmEmpty
from datastream._watch.diff import (
    created_among,
    has_moved_on,
    is_news,
    revision_of,
    without_value,
)
from datastream._watch.known import Known
from datastream._watch.remembered import Remembered
from datastream._watch.routing import Route, Routes
from datastream._watch.steps import Outcome, Step, Ticket
from datastream._watch.subscription import Join, Published, Sink, Subscription, as_batch
from datastream.entry import Batch, Entry, deleted
from datastream.selection import NOTHING, Selection, Selects
from datastream.source import Reading, Written, is_below

NO_VALUES: Mapping[str, Entry] = {}
NOBODY: Mapping[Subscription, News] = {}


class Publisher:
    """Position, known revisions and subscriptions of one store.

    Args:
        atomic: the backend writes several keys together, so that no part of a reading may be
            published without the rest.
        consistent: a read shows all that another one has shown before.
    """

    def __init__(self, *, atomic: bool, consistent: bool) -> None:
        self.lock = threading.Lock()
        self.routes = Routes()
        self.position: str | None = None
        """None while nobody has joined."""
        self._atomic = atomic
        self._consistent = consistent
        # The state published is just that of `position`: no write, and no part of a reading, was
        # published on top of it.
        self._at_position = True
        self._known = Known()
        self._reads = 0
        self._grown_at = 0
        self._covered = 0
        self._joining = 0
        self._confirm_empty = ConfirmEmpty()
        self._apart = Apart()
        # What was published since the first of those that wait for their writes began to.
        self._published = threading.Condition(self.lock)
        self._remembered = Remembered()
        self.closed = False

    # Reads and what they bring.

    def ticket(self) -> Ticket | None:
        """To be taken before a read; None if nobody has joined."""
        with self.lock:
            if self.position is None:
                return None
            self._reads += 1
            # Who stands apart was shown what may be over already. A backend without a log then
            # says that nothing has changed: only the complete state tells.
            since = None if self._apart.given and self._consistent else self.position
            return Ticket(self.position, self._known.version, self._reads, self.routes.union, since)

    @property
    def version(self) -> int:
        """Counts what was published."""
        return self._known.version

    def has_published_since(self, number: int) -> bool:
        """Whether a reading was published whose read began after that with `number`."""
        with self.lock:
            return self._covered > number or self.position is None

    def publish(
        self, ticket: Ticket, reading: Reading, values: Mapping[str, Entry] = NO_VALUES
    ) -> Outcome | list[Entry]:
        """Offer everybody what is news to them in a reading.

        Args:
            ticket: taken before the read.
            values: entries of it that were loaded.

        Returns:
            The outcome; or the entries that have to be loaded before, where the reading comes
            without values: call again with those.

        Raises:
            Vanished: all watched keys are gone, and no second look has confirmed it.
        """
        with self.lock:
            if self.position is None:
                return Outcome.PUBLISHED
            known = self._known
            moved = self.position != ticket.position or known.version != ticket.version
            if moved and not self._may_skip(ticket, reading):
                return Outcome.OUTRUN
            skipped = known.touched_since(ticket.version) if moved else NOTHING
            # What newcomers select was not asked for: it is no part of this reading.
            has_grown = ticket.number <= self._grown_at
            if has_grown and (self.routes.excluding or not reading.complete):
                # What a log tells is read again for little; published in part, its changes would
                # go out under a cursor from which they come once more.
                return Outcome.OUTRUN
            covers = _covers(ticket.union) if has_grown else None
            if covers is not None:
                covered = [entry for entry in reading.entries if covers(entry.key)]
                reading = reading._replace(entries=covered)
            entries = [values.get(e.key, e) for e in reading.entries] if values else reading.entries
            told = Told(entries, reading.complete, skipped, reading.unread, covers)
            news = self._news(told)
            apart = self._apart.news(known.revisions, told)
            if reading.load is not None:
                own = (entries for entries, _ in apart.values())
                missing = without_value([news, *own], values)
                if missing:
                    return missing
            # One that did not ask for a newcomer's keys does not move the position, and tells it
            # nothing; every other one has to be applied, whenever it began.
            self._buffer(Published(reading, values, skipped), ticket.number if has_grown else None)
            compares = reading.complete and reading.position == ticket.since == self.position
            # What was left out has to be read again: by the next poll, from where all are.
            if not (moved or has_grown):
                self.position = reading.position
            self._at_position = not (moved or has_grown or has_moved_on(reading, values))
            self._confirm_empty.clear()
            self._covered = max(self._covered, ticket.number)
            self._deliver(news, apart, reading)
            self._apart.published(told)
            if not compares or moved or has_grown:
                return Outcome.PUBLISHED
            return Outcome.DIFFERENT if news else Outcome.SAME

    def publish_written(self, written: Written, version: int) -> bool:
        """Offer everybody what was written here, without another read.

        Args:
            version: of the publisher, before the write began.

        Returns:
            False if something else may have happened meanwhile: the caller reads.
        """
        entries, since, known = written.entries, written.since, self._known
        with self.lock:
            if self.position is None:
                return True
            if since is None:
                if known.is_touched(entries, version):
                    return False
                self._at_position = False
            elif since != self.position:
                return False
            if self._joining:
                created = frozenset(e.key for e in entries if e.key not in known.revisions)
                reading = Reading(entries, written.position, False, created=created)
                self._buffer(Published(reading, NO_VALUES), None)
            self.position = written.position
            if self._apart.given:
                told = Told(entries)
                self._deliver(self._news(told), self._apart.news(known.revisions, told), written)
                self._apart.published(told)
            elif len(entries) == 1:
                # What most writes are.
                known.version += 1
                if is_news(known.revisions, entries[0]):
                    self._deliver_one(entries[0], written)
            else:
                self._deliver(self._news(Told(entries)), NOBODY, written)
            return True

    def concerns(self, entries: Iterable[Entry]) -> bool:
        """Whether anybody watches one of these keys."""
        with self.lock:
            return any(self.routes.matches(entry.key) for entry in entries)

    @contextmanager
    def deleted(self, keys: Sequence[str]) -> Iterator[None]:
        """From the acknowledgement of own deletes until they are published.

        That nothing else is left raises no suspicion meanwhile.
        """
        with self.lock:
            self._confirm_empty.deleting(keys)
        try:
            yield
        finally:
            with self.lock:
                self._confirm_empty.deleted(keys)

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Around a write and `await_published`: what is published meanwhile is remembered."""
        with self.lock:
            token = self._remembered.begin()
        try:
            yield
        finally:
            with self.lock:
                self._remembered.end(token)

    def await_published(self, entries: Iterable[Entry], timeout: float) -> bool:
        """Wait until these were published, those among them that anybody watches."""
        with self.lock:
            wanted = [e for e in entries if self._is_watched(e.key)]
            return self._published.wait_for(lambda: all(map(self._is_shown, wanted)), timeout)

    def _is_shown(self, entry: Entry) -> bool:
        return entry in self._remembered or not is_news(self._known.revisions, entry)

    def knows(self, key: str) -> bool:
        """Whether `key` is known to hold something."""
        return key in self._known.revisions

    def knows_any(self, selection: Selection) -> bool:
        """Whether one of the selected keys is known to hold something."""
        with self.lock:
            matches = selection.matches
            return any(matches(key) for key in self._known.revisions)

    # Subscriptions come and go.

    def register(self, subscription: Subscription) -> None:
        """Begin to join: from here on, what is published is buffered for it."""
        with self.lock:
            self._register(subscription)

    def _register(self, subscription: Subscription) -> None:
        if subscription.route is None:
            if subscription.selection not in self.routes:
                self._grown_at = self._reads
            subscription.route = self.routes.add(subscription.selection)
            subscription.route.joining.append(subscription)
            self._joining += 1
        subscription.buffer = []
        subscription.registered = self._reads
        subscription.was_idle = self.position is None

    def is_covered(self, subscription: Subscription) -> bool:
        """Whether others have joined for the same selection, so that its keys are known."""
        route = subscription.route
        return route is not None and bool(route.subscriptions)

    def join(self, subscription: Subscription, join: Join, number: int) -> Step:
        """Let it join, if its state can be brought to the common position.

        Args:
            number: of a read that began after the state of `join` was read; 0 if there was none.
        """
        with self.lock:
            route, buffer = subscription.route, subscription.buffer
            if subscription.left or route is None or buffer is None:
                return Step.DONE
            step = self._reach(subscription, route, join, number)
            if step is Step.BEGIN_AGAIN:
                self._register(subscription)
            if step is not Step.DONE:
                return step
            if join.needs_values():
                return Step.LOAD
            is_first = self.position is None
            if is_first:
                self._known.revisions.clear()
                self.position = join.position
                self._at_position = True
            batch = join.batch(self.position or "")
            self._take_in(subscription, join, batch, is_first=is_first)
            self._joined(subscription, route)
            subscription.sink.offer(batch)
            return Step.DONE

    def stands_apart(self, subscription: Subscription) -> bool:
        """Whether it was given something else than was published."""
        return subscription in self._apart

    def leave(self, subscription: Subscription) -> bool:
        """End a subscription, joined or joining; True if it was the last one."""
        with self.lock:
            if subscription.left:
                return False
            subscription.left = True
            self._apart.remove(subscription)
            route, subscription.route = subscription.route, None
            if route is None:
                return False
            if subscription.buffer is not None:
                route.joining.remove(subscription)
                self._joining -= 1
                subscription.buffer = None
            else:
                route.subscriptions.remove(subscription)
            self._drop_unused(route)
            return not self.routes

    def close(self) -> list[Sink]:
        """Publish nothing any more; the sinks, to be ended."""
        with self.lock:
            self.closed = True
            sinks = [s.sink for route in self.routes.all() for s in route.subscriptions]
            sinks += [s.sink for route in self.routes.all() for s in route.joining]
            self._rest()
            return sinks

    # Under the lock.

    def _news(self, told: Told) -> list[Entry]:
        known, entries, skipped = self._known.revisions, told.entries, told.skipped
        if not told.complete:
            return [entry for entry in entries if is_news(known, entry)]
        self._confirm_empty.check(known, is_empty=not (entries or all(map(told.is_unread, known))))
        present = {entry.key for entry in entries}
        gone = [deleted(key) for key in known if key not in present and told.tells_of(key)]
        return gone + [
            entry
            for entry in entries
            if is_news(known, entry) and entry.key not in skipped and self._is_watched(entry.key)
        ]

    def _is_watched(self, key: str) -> bool:
        return any(route.subscriptions for route in self.routes.of(key))

    def _buffer(self, published: Published, number: int | None) -> None:
        """Keep a reading for those that join; with `number`, of those that registered before."""
        if not self._joining:
            return
        for route in self.routes.all():
            for subscription in route.joining:
                was_asked = number is None or subscription.registered < number
                if subscription.buffer is not None and was_asked:
                    subscription.buffer.append(published)

    def _deliver(
        self, news: list[Entry], apart: Mapping[Subscription, News], about: Reading | Written
    ) -> None:
        """Know and offer `news`, and to those apart theirs; `about` tells of the commit."""
        self._known.version += 1
        for subscription, (entries, created) in apart.items():
            if entries:
                batch = as_batch(entries, self.position or "", about, created)
                # Without the revisions before: that it may drop what changes nothing costs more.
                subscription.sink.offer(batch, None)
        if len(news) == 1 and not self._apart.given:
            self._deliver_one(news[0], about)
        elif news:
            self._deliver_parts(news, about)

    def _deliver_one(self, entry: Entry, about: Reading | Written) -> None:
        """Offer one entry to all that select it: by far most often, so nothing else is done."""
        key = entry.key
        before = self._known.revisions.get(key)
        joined = [s for route in self.routes.of(key) for s in route.subscriptions]
        if joined:
            created = NOTHING if before is not None else frozenset((key,))
            batch = as_batch((entry,), self.position or "", about, created)
            for subscription in joined:
                subscription.sink.offer(batch, (before,))
            self._known.learn(entry)
        if self._remembered.waiting:
            self._remember((entry,))

    def _deliver_parts(self, news: list[Entry], about: Reading | Written) -> None:
        """Offer everybody the part of `news` that they select."""
        parts = [
            (route.subscriptions, part)
            for route, part in self.routes.split(news).items()
            if route.subscriptions
        ]
        for subscriptions, part in parts:
            self._offer(subscriptions, part, about)
        # Not before all have been told: several may select the same key.
        for _, part in parts:
            for entry in part:
                self._known.learn(entry)
        if self._remembered.waiting:
            self._remember(news)

    def _remember(self, news: Iterable[Entry]) -> None:
        """Tell those that wait for their writes."""
        self._remembered.add(news)
        self._published.notify_all()

    def _offer(
        self, subscriptions: list[Subscription], entries: list[Entry], about: Reading | Written
    ) -> None:
        """Offer `entries` to those that have joined."""
        known, apart = self._known.revisions, self._apart.given
        before = [known.get(entry.key) for entry in entries]
        created = created_among(entries, before) if None in before else NOTHING
        batch = as_batch(entries, self.position or "", about, created)
        for subscription in subscriptions:
            if not (apart and subscription in apart):
                subscription.sink.offer(batch, before)

    def _reach(self, subscription: Subscription, route: Route, join: Join, number: int) -> Step:
        """Bring `join` to the common position, if what lies between is known."""
        if not join.has_state and not route.subscriptions:
            return Step.BEGIN_AGAIN
        is_sure = self._consistent and self._at_position
        if self.position is None or (is_sure and join.position == self.position):
            # No change lies between: whatever was buffered, the state shows it already.
            return Step.DONE
        if subscription.was_idle:
            return Step.BEGIN_AGAIN
        if not 0 < number <= self._covered:
            return Step.CATCH_UP
        buffer, subscription.buffer = subscription.buffer or [], []
        if join.apply(buffer):
            return Step.DONE
        subscription.needs_state = True
        return Step.BEGIN_AGAIN

    def _may_skip(self, ticket: Ticket, reading: Reading) -> bool:
        """Whether a reading that was outrun, by writes only, may be published without their keys.

        Else a backend that takes long to list would never be heard while this store writes.
        """
        is_due = reading.complete and not self._atomic and self._covered < ticket.number
        return is_due and self._known.remembers(ticket.version)

    def _learn_uncovered(self, revisions: Mapping[str, str]) -> None:
        """Know the keys that nobody watched; what others watch is known, or comes to all."""
        known = self._known.revisions
        for key, revision in revisions.items():
            if key not in known and not self._is_watched(key):
                known[key] = revision

    def _take_in(
        self, subscription: Subscription, join: Join, batch: Batch, *, is_first: bool
    ) -> None:
        """Know the state that a newcomer read, and what it has that was not published."""
        known, revisions, kept = self._known.revisions, join.revisions(), join.kept()
        if is_first:
            known.update(revisions)
        elif join.has_state:
            self._learn_uncovered(revisions)
        if join.cursor is not None:
            # Of what it is not told it has what was there at its cursor, as all others have.
            now = {entry.key: revision_of(entry) for entry in batch.entries}
            given = {key: at for key, at in now.items() if known.get(key) != at}
            if lacking := subscription.lacking:
                given |= {k: None for k in known if k not in now and is_below(k, lacking)}
            self._apart.add(subscription, given)
        elif kept or not is_first:
            differing = self._differing(subscription.selection, revisions | kept)
            self._apart.add(subscription, differing)

    def _differing(
        self, selection: Selection, revisions: Mapping[str, str]
    ) -> dict[str, str | None]:
        """What a newcomer is given that was not published yet, such as keys being written."""
        known = self._known.revisions
        given: dict[str, str | None] = {
            key: revision for key, revision in revisions.items() if known.get(key) != revision
        }
        if len(known) > len(revisions) - len(given):
            matches = selection.matches
            given |= {key: None for key in known if key not in revisions and matches(key)}
        return given

    def _joined(self, subscription: Subscription, route: Route) -> None:
        subscription.buffer = None
        route.joining.remove(subscription)
        route.subscriptions.append(subscription)
        self._joining -= 1

    def _drop_unused(self, route: Route) -> None:
        if route.subscriptions:
            return
        if not route.joining:
            self.routes.remove(route)
        if not any(other.subscriptions for other in self.routes.all()):
            self._rest()
            return
        selection = route.selection
        exact = not (selection.prefixes or selection.patterns or selection.everything)
        for key in selection.keys if exact else list(self._known.revisions):
            if not self._is_watched(key):
                self._known.forget(key)

    def _rest(self) -> None:
        """Nobody has joined: stand nowhere."""
        self.position = None
        self._known.clear()
        self._confirm_empty.clear()
        for route in self.routes.all():
            for subscription in route.joining:
                # What is published from the next position on is not all it has missed.
                subscription.was_idle = True


def _covers(union: Selects) -> Callable[[str], bool]:
    """What a union selected when the ticket was taken; its own `matches` is that of now."""
    return Selection(union.keys, union.prefixes, union.patterns).matches
