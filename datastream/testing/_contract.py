"""The Source contract itself, below any store."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from datastream.entry import Entry, Operation
from datastream.selection import Selection
from datastream.source import Reading
from datastream.store import Store
from datastream.testing._tools import TIMEOUT, Spy

EVERYTHING = Selection()


def loaded(reading: Reading) -> Sequence[Entry]:
    """The entries of a reading with their values."""
    return reading.entries if reading.load is None else reading.load(reading.entries)


class SourceContract:
    """`read`, `wait` and `wake` as `datastream.source` describes them."""

    def test_read_is_complete_without_since(self, spy: Spy, store: Store, elsewhere: Store) -> None:
        assert spy.read(EVERYTHING, None).complete
        elsewhere.put_many({"a": 1, "b/c": 2})
        reading = spy.read(EVERYTHING, None)
        assert reading.complete
        assert {entry.key for entry in reading.entries} == {"a", "b/c"}
        assert all(entry.operation is Operation.PUT for entry in reading.entries)
        assert "a" in {entry.key for entry in spy.read(Selection.of("a"), None).entries}

    def test_position_stays_where_nothing_changed(
        self, spy: Spy, store: Store, elsewhere: Store
    ) -> None:
        elsewhere.put("a", 1)
        position = spy.read(EVERYTHING, None).position
        again = spy.read(EVERYTHING, position)
        assert again.position == position
        assert again.complete or not again.entries
        elsewhere.put("a", 2)
        after = self._read_news(spy, position)
        assert after.position != position
        assert [entry.value for entry in loaded(after)] == [b"2"]

    def test_foreign_position_gives_the_complete_state(
        self, spy: Spy, store: Store, elsewhere: Store
    ) -> None:
        elsewhere.put("a", 1)
        ours = spy.read(EVERYTHING, None).position
        made_up = (f"{ours}9", f"{ours}{'9' * 30}", f"{ours}{'9' * 9000}", f"{ours}²")
        for position in ("no such position", "epoch:1", "epoch:-1", ":", *made_up):
            reading = spy.read(EVERYTHING, position)
            assert reading.complete
            assert [entry.key for entry in reading.entries] == ["a"]

    def test_wait_returns_for_a_change_made_before_it(
        self, spy: Spy, store: Store, elsewhere: Store
    ) -> None:
        position = spy.read(EVERYTHING, None).position
        spy.read(EVERYTHING, position)
        elsewhere.put("a", 1)
        reading = self._read_news(spy, position)
        assert [entry.key for entry in reading.entries] == ["a"]

    def _read_news(self, spy: Spy, position: str) -> Reading:
        """`wait` and `read`, as the hub does, until there is something."""
        for _ in range(100):
            spy.wait(TIMEOUT)
            reading = spy.read(EVERYTHING, position)
            if reading.position != position:
                return reading
        raise AssertionError("wait returned a hundred times, and never was there anything")

    def test_wake_ends_a_wait(self, spy: Spy, store: Store) -> None:
        spy.read(EVERYTHING, spy.read(EVERYTHING, None).position)
        thread = threading.Thread(target=lambda: spy.wait(None), daemon=True)
        thread.start()
        # It may have returned already, for no reason, as it is free to.
        spy.waiting.wait(1)
        spy.wake()
        thread.join(TIMEOUT)
        assert not thread.is_alive()

    def test_wake_before_wait_is_not_lost(self, spy: Spy, store: Store) -> None:
        spy.read(EVERYTHING, spy.read(EVERYTHING, None).position)
        spy.wake()
        thread = threading.Thread(target=lambda: spy.wait(None), daemon=True)
        thread.start()
        thread.join(TIMEOUT)
        assert not thread.is_alive()
