"""A store that a Source is built over: how an overlay and a document read, write and follow it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from datastream._watch.subscription import Since, Sink
from datastream.entry import Batch, Entry, Revision
from datastream.selection import Selection
from datastream.source import Feature, Reading, Write
from datastream.status import Status
from datastream.store import Store


class Upstream:
    """One store below another one.

    Args:
        store: the store.
        owned: it was opened for this, so `close` closes it.
    """

    def __init__(self, store: Store, *, owned: bool) -> None:
        self.store = store
        self.name = store.name
        self._owned = owned
        self._core = store._core
        self._status = store.status

    @property
    def features(self) -> frozenset[Feature]:
        """What the store can do."""
        return self.store.features

    @property
    def status(self) -> Status:
        """How the store stands with its backend."""
        return self._status.current

    def get(self, key: str) -> Entry | None:
        """The entry of one key, read from the backend."""
        return self._core.get(key)

    def snapshot(self, selection: Selection) -> Batch:
        """The state of the selected keys, with the cursor of that moment."""
        return self._core.state(selection)

    def changes(self, selection: Selection, since: str) -> Reading:
        """What changed since a cursor; complete, if the backend cannot tell."""
        return self._core.read_changes(selection, since)

    def catch_up(self) -> None:
        """Offer followers all that is there now, before this returns."""
        self._core.catch_up()

    def reached(self) -> str | None:
        """The position up to which followers were offered everything, None if it is not known."""
        return self._core.reached()

    def write(self, writes: Sequence[Write]) -> Sequence[Entry]:
        """Write, and offer followers the changes."""
        return self._core.write(writes)

    def history(self, key: str) -> Iterator[Revision]:
        """What `key` held before, newest first."""
        return self.store.history(key)

    def follow(self, selection: Selection, sink: Sink, had: Since = None) -> Callable[[], None]:
        """Offer `sink` the state and every change; the answer ends that.

        Where the backend is away, the state follows later.

        Args:
            selection: which keys.
            sink: takes the batches.
            had: the revisions it has, or a cursor: the first batch then holds what differs.
        """
        subscription = self._core.subscribe(selection, sink, had)
        return lambda: self._core.unsubscribe(subscription)

    def follow_status(self, changed: Callable[[Status], None]) -> Callable[[], None]:
        """Call `changed` with the status now and whenever it changes; the answer ends that."""
        return self._status.subscribe(changed).dispose

    def refresh(self) -> None:
        """Have the store look at its backend now."""
        self.store.refresh()

    def close(self) -> None:
        """Close the store, if it was opened for this."""
        if self._owned:
            self.store.close()
