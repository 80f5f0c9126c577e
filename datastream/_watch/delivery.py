"""Offers news to all that select it, and tells those who wait until their write is published."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from datastream._watch.apart import Apart, News
from datastream._watch.diff import created_among, is_news
from datastream._watch.known import Known
from datastream._watch.members import Members
from datastream._watch.remembered import Remembered
from datastream._watch.subscription import Subscription, as_batch
from datastream.entry import Batch, Entry
from datastream.selection import NOTHING
from datastream.source import Reading, Written

NOBODY: Mapping[Subscription, News] = {}


class Delivery:
    """Knows and offers what is news; called under the publisher's lock.

    Args:
        members: who selects what.
        known: learns what is offered.
        apart: those that are offered news of their own.
        lock: of the publisher.
    """

    def __init__(self, members: Members, known: Known, apart: Apart, lock: threading.Lock) -> None:
        self._members = members
        self._routes = members.routes
        self._known = known
        self._apart = apart
        self._lock = lock
        # What was published since the first of those that wait for their writes began to.
        self._published = threading.Condition(lock)
        self._remembered = Remembered()

    def deliver(
        self,
        news: list[Entry],
        position: str,
        about: Reading | Written,
        apart: Mapping[Subscription, News] = NOBODY,
    ) -> None:
        """Know and offer `news`, and to those apart theirs.

        Args:
            position: that is reached with it: the cursor of the batches.
            about: the reading or write, which tells of the commit.
        """
        if len(news) == 1 and not self._apart.given:
            self.deliver_one(news[0], position, about)
            return
        self._known.version += 1
        for subscription, (entries, before) in apart.items():
            if entries:
                created = created_among(entries, before)
                subscription.sink.offer(as_batch(tuple(entries), position, about, created), before)
        if news:
            self._deliver_parts(news, position, about)

    def deliver_one(self, entry: Entry, position: str, about: Reading | Written) -> None:
        """The same of one entry, if it is news, with nobody apart: what most changes are."""
        known, key = self._known, entry.key
        known.version += 1
        before = known.revisions.get(key)
        if (before or "") == entry.revision:
            return
        if self._remembered.waiting:
            self._remember((entry,))
        batch: Batch | None = None
        revisions = (before,)
        for route in self._routes.of(key):
            for subscription in route.subscriptions:
                if batch is None:
                    created = NOTHING if before is not None else frozenset((key,))
                    batch = as_batch((entry,), position, about, created)
                subscription.sink.offer(batch, revisions)
        if batch is not None:
            known.learn(entry)

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Around a write and `await_published`: what is published meanwhile is remembered.

        Takes the lock, as `await_published` does.
        """
        with self._lock:
            token = self._remembered.begin()
        try:
            yield
        finally:
            with self._lock:
                self._remembered.end(token)

    def await_published(self, entries: Iterable[Entry], timeout: float) -> bool:
        """Wait until these were published, those among them that anybody watches."""
        with self._lock:
            wanted = self._members.watched(entries)
            return self._published.wait_for(lambda: all(map(self._is_shown, wanted)), timeout)

    def _is_shown(self, entry: Entry) -> bool:
        return entry in self._remembered or not is_news(self._known.revisions, entry)

    def _deliver_parts(self, news: list[Entry], position: str, about: Reading | Written) -> None:
        """Offer everybody the part of `news` that they select."""
        if self._remembered.waiting:
            self._remember(news)
        parts = [
            (route.subscriptions, part)
            for route, part in self._routes.split(news).items()
            if route.subscriptions
        ]
        for subscriptions, part in parts:
            self._offer(subscriptions, part, position, about)
        # Not before all have been told: several may select the same key.
        for _, part in parts:
            for entry in part:
                self._known.learn(entry)

    def _offer(
        self,
        subscriptions: Sequence[Subscription],
        entries: list[Entry],
        position: str,
        about: Reading | Written,
    ) -> None:
        """Offer `entries` to those that have joined."""
        known, apart = self._known.revisions, self._apart.given
        before = [known.get(entry.key) for entry in entries]
        created = created_among(entries, before) if None in before else NOTHING
        batch = as_batch(tuple(entries), position, about, created)
        for subscription in subscriptions:
            if not (apart and subscription in apart):
                subscription.sink.offer(batch, before)

    def _remember(self, news: Iterable[Entry]) -> None:
        """Tell those that wait for their writes.

        Before subscribers are offered them: whose threads wake next would go first.
        """
        self._remembered.add(news)
        self._published.notify_all()
