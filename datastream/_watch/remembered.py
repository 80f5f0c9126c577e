"""What was published while somebody waits for it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from datastream.entry import Entry


class Remembered:
    """Keys with revisions, each as long as somebody waits who began before it was published.

    Not thread-safe: the publisher's lock guards it.
    """

    def __init__(self) -> None:
        self._count = 0
        self.waiting: OrderedDict[object, int] = OrderedDict()
        """Those who wait, in their order, with the count of then."""
        # What was published, likewise.
        self._published: OrderedDict[tuple[str, str], int] = OrderedDict()

    def begin(self) -> object:
        """Somebody begins to wait: what `end` takes."""
        token = object()
        self.waiting[token] = self._count
        return token

    def end(self, token: object) -> None:
        """It waits no more; forget what nobody else waits for."""
        del self.waiting[token]
        oldest = next(iter(self.waiting.values()), self._count)
        published = self._published
        while published and next(iter(published.values())) < oldest:
            published.popitem(last=False)

    def add(self, entries: Iterable[Entry]) -> None:
        """These were published just now."""
        if not self.waiting:
            return
        for entry in entries:
            self._published[entry.key, entry.revision] = self._count
            self._published.move_to_end((entry.key, entry.revision))
            self._count += 1

    def __contains__(self, entry: Entry) -> bool:
        return (entry.key, entry.revision) in self._published

    def __len__(self) -> int:
        return len(self._published)
