"""The promises, one test each, in the order in which the design gives them."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from datastream.entry import Entry, Operation
from datastream.errors import (
    InvalidKey,
    InvalidValue,
    KeyNotFound,
    ReadOnly,
    RevisionConflict,
    SourceUnavailable,
    StoreClosed,
    Unsupported,
)
from datastream.source import Feature, Reading
from datastream.status import State, Status
from datastream.store import Store
from datastream.testing._contract import SourceContract
from datastream.testing._tools import (
    TIMEOUT,
    Harness,
    Recorder,
    Spy,
    eventually,
    open_handles,
    together,
)

ODD_KEYS = (
    "a key with spaces",
    "../up",
    "/absolute",
    "caf\u00e9",
    "cafe\u0301",
    "tab\tand\nnewline",
    "percent%2Fplus+hash#question?",
    "k" * 10_000,
    "ключ/键/🔑",
)
BAD_KEYS = ("", "prefix/", "nul\0", "\ud800")


class Conformance(SourceContract):
    """Subclass it with a ``harness`` fixture; see `datastream.testing`."""

    @pytest.fixture
    def harness(self) -> Harness:
        raise NotImplementedError("override this fixture: it returns your Harness")

    @pytest.fixture
    def opened(self, harness: Harness) -> Iterator[list[Any]]:
        things: list[Any] = []
        yield things
        for thing in reversed(things):
            thing.close()
        harness.close()

    @pytest.fixture
    def spy(self, harness: Harness) -> Spy:
        return Spy(harness.source())

    @pytest.fixture
    def store(self, spy: Spy, opened: list[Any]) -> Store:
        """The store under test."""
        store = Store(spy, name="under test")
        opened.append(store)
        return store

    @pytest.fixture
    def elsewhere(self, harness: Harness, opened: list[Any]) -> Store:
        """Another store on the same backend."""
        store = harness.writer()
        opened.append(store)
        return store

    @pytest.fixture
    def writers(self, store: Store, elsewhere: Store) -> list[Store]:
        """All who may write: the store under test itself, if it can, and the other one."""
        return [store, elsewhere] if Feature.WRITE in store.features else [elsewhere]

    @pytest.fixture
    def rounds(self, harness: Harness) -> Callable[[int], int]:
        """How many writes to make instead of so many."""
        return lambda most: max(min(10, most), round(most * harness.effort))

    def test_01_filtered(self, store: Store, writers: list[Store]) -> None:
        recorders = {
            "keys": (Recorder(store, "a", "fx/USD"), {"a", "fx/USD"}),
            "prefix": (Recorder(store, "fx/"), {"fx/USD", "fx/old/DEM"}),
            "one star": (Recorder(store, match="fx/*"), {"fx/USD"}),
            "two stars": (Recorder(store, match="**/DEM"), {"fx/old/DEM"}),
            "either": (Recorder(store, "a", "fx/old/", match="x*"), {"a", "fx/old/DEM", "x1"}),
            "all": (Recorder(store), {"a", "fx/USD", "fx/old/DEM", "fxx", "x1"}),
        }
        for writer in writers:
            for key in ("fxx", "a", "fx/USD", "fx/old/DEM", "x1"):
                writer.put(key, f"{writer.name} {key}")
        for name, (recorder, expected) in recorders.items():
            recorder.wait(lambda r, e=expected: set(r.state) == e, f"{name}: {expected}")  # type: ignore[misc]
            assert {entry.key for entry in recorder.entries} == expected

    def test_02_initial(self, store: Store, elsewhere: Store) -> None:
        empty = Recorder(store, "fx/")
        empty.wait_ready()
        assert [(batch.initial, batch.entries) for batch in empty.batches] == [(True, ())]
        elsewhere.put_many({"fx/USD": 1.1, "fx/GBP": 0.8, "other": 1})
        full = Recorder(store, "fx/", "missing")
        full.wait_ready()
        first = full.batches[0]
        assert first.initial
        assert not first.reset
        assert {entry.key: entry.decode() for entry in first.entries} == {
            "fx/USD": 1.1,
            "fx/GBP": 0.8,
        }
        assert full.entries == list(first.entries)
        empty.wait(lambda r: len(r.state) == 2)
        assert not any(batch.initial for batch in empty.batches[1:])

    def test_03_no_gap(
        self, store: Store, writers: list[Store], rounds: Callable[[int], int]
    ) -> None:
        count = rounds(60)
        recorders: list[Recorder] = []
        done = threading.Event()

        def write() -> None:
            for number in range(count):
                writers[number % len(writers)].put(f"k{number % 5}", number)
            done.set()

        thread = threading.Thread(target=write)
        thread.start()
        while not done.is_set() and len(recorders) < 200:
            recorders.append(Recorder(store))
        thread.join(TIMEOUT)
        final = {f"k{n % 5}": str(n).encode() for n in range(count - 5, count)}
        for recorder in recorders:
            recorder.wait_state(final)

    def test_03_no_gap_when_the_selection_grows(
        self, store: Store, spy: Spy, elsewhere: Store
    ) -> None:
        first = Recorder(store, "a")
        first.wait_ready()
        assert spy.waiting.wait(TIMEOUT)
        second = Recorder(store, "b/")
        elsewhere.put("b/c", 1)
        second.wait_state({"b/c": b"1"})
        assert first.state == {}

    def test_04_unique(self, store: Store, writers: list[Store]) -> None:
        recorder = Recorder(store)
        for writer in writers:
            writer.put("a", f"by {writer.name}")
            stored = writer.put("b", b"first")
            again = writer.put("b", b"first")
            assert again == stored
            writer.put("c", f"end {writer.name}")
        recorder.wait(lambda r: r.state.get("c") == f"end {writers[-1].name}".encode())
        last: dict[str, tuple[str, str]] = {}
        for entry in recorder.entries:
            mark = (entry.revision, entry.operation.value)
            assert last.get(entry.key) != mark, f"{entry.key} delivered twice"
            last[entry.key] = mark
        assert [entry.key for entry in recorder.entries].count("b") == 1

    def test_05_ordered(
        self, store: Store, writers: list[Store], rounds: Callable[[int], int]
    ) -> None:
        times = rounds(50)
        recorders = [Recorder(store), Recorder(store, "k0", "k1", "k2", "k3")]

        def count(writer: Store, key: str) -> Callable[[], list[Entry]]:
            return lambda: [writer.put(key, n) for n in range(times)]

        together(*(count(writers[n % len(writers)], f"k{n}") for n in range(4)))
        for recorder in recorders:
            recorder.wait_state({f"k{n}": str(times - 1).encode() for n in range(4)})
            for key in ("k0", "k1", "k2", "k3"):
                values = [int(entry.value) for entry in recorder.entries if entry.key == key]
                assert values == sorted(values), f"{key} went back"

    def test_06_atomic(
        self, store: Store, writers: list[Store], rounds: Callable[[int], int]
    ) -> None:
        if Feature.ATOMIC not in writers[-1].features:
            pytest.skip("this backend declares that it cannot write several keys together")
        recorders = [Recorder(store), Recorder(store, "a", "b")]
        count = rounds(40)
        for number in range(count):
            writers[number % len(writers)].put_many({"a": number, "b": number, "c": number})
        for recorder in recorders:
            recorder.wait(lambda r: r.state.get("b") == str(count - 1).encode())
            for state in recorder.states:
                assert state.get("a") == state.get("b"), "a batch was torn"

    def test_07_deletes(self, store: Store, writers: list[Store]) -> None:
        recorder = Recorder(store, "a", "gone/")
        for number, writer in enumerate(writers):
            first = writer.put("a", f"{number} first")
            writer.put("gone/x", number)
            recorder.wait(lambda r: "a" in r.state and "gone/x" in r.state)
            del writer["a"]
            compares = Feature.COMPARE_AND_SET in writer.features
            writer.delete("gone/x", expect=writer.entry("gone/x").revision if compares else None)
            recorder.wait_state({})
            delete = next(e for e in reversed(recorder.entries) if e.key == "a")
            assert (delete.operation, delete.value, delete.revision) == (Operation.DELETE, b"", "")
            assert "a" not in writer
            with pytest.raises(KeyNotFound):
                writer.delete("a")
            writer.delete("a", missing_ok=True)
            again = writer.put("a", f"{number} again")
            assert again.revision not in ("", first.revision)
            recorder.wait_state({"a": again.value})
            writer.clear()
            recorder.wait_state({})

    def test_08_converges(
        self, store: Store, writers: list[Store], rounds: Callable[[int], int]
    ) -> None:
        count = rounds(300)
        release, blocked = threading.Event(), threading.Event()
        taken: list[Entry] = []

        def slow(entry: Entry) -> None:
            blocked.set()
            release.wait(TIMEOUT)
            taken.append(entry)

        recorder = Recorder(store)
        store.watch("k/").subscribe(slow)
        for number in range(count):
            writers[number % len(writers)].put(f"k/{number % 10}", number)
        assert blocked.wait(TIMEOUT)
        expected = {f"k/{n % 10}": str(n).encode() for n in range(count - 10, count)}
        recorder.wait_state(expected)
        release.set()
        assert store.flush(TIMEOUT)
        assert {entry.key: entry.value for entry in taken} == expected

    def test_09_resumable(self, store: Store, elsewhere: Store) -> None:
        elsewhere.put_many({"a": 1, "b": 2, "c": 3, "other": 0})
        before = Recorder(store, "a", "b", "c", "d")
        before.wait(lambda r: len(r.state) == 3)
        revisions = {entry.key: entry.revision for entry in before.entries}
        before.dispose()
        elsewhere.put("a", 10)
        elsewhere.delete("b")
        elsewhere.put("d", 4)
        elsewhere.put("other", 1)
        changes = {"a": b"10", "b": None, "d": b"4"}
        if Feature.LOG in store.features:
            after = Recorder(store, "a", "b", "c", "d", since=before.cursor)
            after.wait_ready()
            assert _changes(after) == changes
            assert (after.batches[0].initial, after.batches[0].reset) == (True, False)
        by_revision = Recorder(store, "a", "b", "c", "d", since=revisions)
        by_revision.wait_ready()
        assert _changes(by_revision) == changes
        for foreign in ("", "unheard:of", "elsewhere:999999999999"):
            reset = Recorder(store, "a", "b", "c", "d", since=foreign)
            reset.wait_ready()
            assert reset.batches[0].reset == bool(foreign)
            assert reset.state == {"a": b"10", "c": b"3", "d": b"4"}
        elsewhere.put("c", 30)
        by_revision.wait(lambda r: r.state.get("c") == b"30")

    def test_10_survives(self, store: Store, spy: Spy, elsewhere: Store) -> None:
        elsewhere.put_many({"a": 1, "b": 2})
        recorder = Recorder(store)
        recorder.wait_state({"a": b"1", "b": b"2"})
        statuses, changed = _follow_status(store)
        spy.failure = SourceUnavailable("pulled the plug")
        store.refresh()
        _await_state(statuses, changed, State.STALE)
        with pytest.raises(SourceUnavailable, match="plug"):
            store.snapshot()
        late = Recorder(store, "a")
        elsewhere.put("a", 3)
        assert recorder.state == {"a": b"1", "b": b"2"}
        assert not late.batches
        spy.failure = None
        store.refresh()
        recorder.wait_state({"a": b"3", "b": b"2"})
        late.wait_state({"a": b"3"})
        _await_state(statuses, changed, State.READY)
        assert [entry.key for entry in recorder.live] == ["a"]
        assert recorder.error is None

    def test_10_survives_an_empty_answer(self, store: Store, spy: Spy, elsewhere: Store) -> None:
        elsewhere.put_many({"a": 1, "b": 2})
        recorder = Recorder(store)
        recorder.wait_state({"a": b"1", "b": b"2"})
        statuses, changed = _follow_status(store)
        spy.pretend = Reading((), "nothing:0", complete=True)
        store.refresh()
        _await_state(statuses, changed, State.STALE)
        _await_state(statuses, changed, State.READY)
        elsewhere.put("a", 3)
        recorder.wait_state({"a": b"3", "b": b"2"})
        assert [entry.key for entry in recorder.live] == ["a"]

    def test_11_isolated(
        self, store: Store, writers: list[Store], caplog: pytest.LogCaptureFixture
    ) -> None:
        release = threading.Event()
        calls: list[Entry] = []

        def raising(entry: Entry) -> None:
            calls.append(entry)
            raise RuntimeError("a subscriber's own trouble")

        def blocking(_: Entry) -> None:
            release.wait(TIMEOUT)

        def echo(entry: Entry) -> None:
            if Feature.WRITE in store.features and entry.value != b"stop":
                store.put(f"echo/{entry.key}", "stop")

        caplog.set_level(logging.CRITICAL, "datastream")
        store.watch("k").subscribe(raising)
        store.watch("k").subscribe(blocking)
        store.watch("k").subscribe(echo)
        recorder = Recorder(store, "k")
        for number in range(5):
            writers[number % len(writers)].put("k", number)
        recorder.wait_state({"k": b"4"})
        assert not release.is_set()
        release.set()
        assert store.flush(TIMEOUT)
        assert len(calls) == 1, "one that raises is disposed"
        assert recorder.error is None

    def test_12_read_your_writes(self, store: Store) -> None:
        if Feature.WRITE not in store.features:
            pytest.skip("this backend declares that it cannot be written")

        async def follow() -> None:
            watch = store.awatch("k")
            first: dict[str, bytes] = {}
            for number in range(20):
                store.put("k", number)
                assert store["k"] == number
                entry = await asyncio.wait_for(anext(watch), TIMEOUT)
                first[entry.key] = entry.value
                assert int(entry.value) == number
            await watch.aclose()

        asyncio.run(follow())
        recorder = Recorder(store)
        for number in range(20):
            stored = store.put("x", number)
            assert store.flush(TIMEOUT)
            assert recorder.entries[-1] == stored == store.entry("x")

    def test_13_compare_and_set(
        self, store: Store, writers: list[Store], rounds: Callable[[int], int]
    ) -> None:
        if Feature.COMPARE_AND_SET not in writers[-1].features:
            with pytest.raises(Unsupported):
                writers[-1].put("k", 1, expect="")
            pytest.skip("this backend declares that it has no compare-and-set: it was refused")
        created = together(
            *(lambda w=w, n=n: w.put("k", n, expect="") for n in range(4) for w in writers)
        )
        assert sum(isinstance(result, Entry) for result in created) == 1
        assert all(isinstance(r, Entry | RevisionConflict) for r in created), created
        writers[0].put("count", 0)
        times = rounds(20) // 4
        together(*(lambda w=w: _count(w, times) for _ in range(4) for w in writers))
        assert store["count"] == 4 * times * len(writers)
        stale = writers[0].entry("count").revision
        writers[0].put("count", -1)
        with pytest.raises(RevisionConflict):
            writers[0].delete("count", expect=stale)
        with pytest.raises(RevisionConflict):
            writers[0].put_many({"new": 1, "count": 1}, expect={"count": stale})
        # A revision may come from anywhere, and be none.
        for none in ("\0", "\ud800", "r" * 100_000):
            with pytest.raises(RevisionConflict):
                writers[0].put("count", 1, expect=none)
            with pytest.raises(RevisionConflict):
                writers[0].delete("count", expect=none)
        assert "new" not in store
        assert store["count"] == -1

    def test_14_released(self, store: Store, spy: Spy, elsewhere: Store) -> None:
        recorders = [Recorder(store, "a"), Recorder(store)]
        assert spy.waiting.wait(TIMEOUT)
        recorders[0].dispose()
        elsewhere.put("a", 1)
        recorders[1].wait_state({"a": b"1"})
        recorders[1].dispose()
        assert spy.released.wait(TIMEOUT), "the reading thread did not end"
        reads = spy.reads
        elsewhere.put("a", 2)
        assert spy.reads == reads, "nobody watches, yet the backend is read"
        last = Recorder(store)
        last.wait_state({"a": b"2"})
        store.close()
        last.wait(lambda r: r.completed)
        assert spy.closed.wait(TIMEOUT)
        with pytest.raises(StoreClosed):
            store.snapshot()
        store.close()

    def test_14_nothing_leaks(self, harness: Harness, elsewhere: Store) -> None:
        """Threads, sockets and files of a store that is closed are gone."""

        def live() -> None:
            with Store(harness.source(), name="short-lived") as store:
                recorder = Recorder(store, "a", "kept")
                elsewhere.put("a", "b")
                recorder.wait_state({"a": b"b", "kept": b"kept"})
                elsewhere.delete("a")
                recorder.wait_state({"kept": b"kept"})
                assert store.get("a") is None

        # That a last key is gone is believed after a second look only, which takes time.
        elsewhere.put("kept", "kept")
        live()
        gc.collect()
        before = open_handles()
        for _ in range(8):
            live()
        # What is kept for a while, such as an idle connection, may differ by a few.
        eventually(lambda: gc.collect() >= 0 and open_handles() < before + 8, "all was freed")

    def test_15_shared(self, store: Store, spy: Spy, elsewhere: Store) -> None:
        one = Recorder(store)
        one.wait_ready()
        assert spy.waiting.wait(TIMEOUT)
        many = [Recorder(store) for _ in range(50)]
        eventually(spy.waiting.is_set, "the reader waits again")
        before = spy.reads
        elsewhere.put("a", 1)
        for recorder in [one, *many]:
            recorder.wait_state({"a": b"1"})
        assert spy.reads - before < 10, "each subscriber costs a read of its own"

    def test_16_responsive(self, store: Store, spy: Spy, elsewhere: Store) -> None:
        """While a poll hangs, all else goes on, and `close` returns."""
        if not spy.thread_safe:
            pytest.skip("this source declares that it takes one call at a time")
        elsewhere.put("a", "one")
        watched = Recorder(store, "a")
        watched.wait_ready()
        spy.hanging = threading.Event()
        try:
            store.refresh()
            assert spy.hung.wait(TIMEOUT)
            assert store["a"] == "one"
            assert set(store.snapshot()) == {"a"}
            assert list(store) == ["a"]
            if Feature.WRITE in store.features:
                store.put("b", "two")
                assert store["b"] == "two"
            watched.dispose()
        finally:
            hanging, spy.hanging = spy.hanging, None
        # The poll still hangs: newcomers do not wait for it, nor does the end.
        late = Recorder(store, "a")
        late.wait_state({"a": b"one"})
        store.close()
        late.wait(lambda r: r.completed)
        hanging.set()

    def test_17_said(
        self, store: Store, spy: Spy, elsewhere: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Trouble and its end are in the log and in the status, with the reason."""
        caplog.set_level(logging.INFO, "datastream")
        assert store.status.current.state == "CONNECTING"
        elsewhere.put("a", "one")
        recorder = Recorder(store)
        recorder.wait_state({"a": b"one"})
        assert store.status.current.state == "READY"
        statuses, changed = _follow_status(store)
        spy.failure = SourceUnavailable("pulled\x1b[31m the plug")
        store.refresh()
        _await_state(statuses, changed, State.STALE)
        assert "plug" in str(store.status.current.error)
        spy.failure = None
        assert store.snapshot()
        _await_state(statuses, changed, State.READY)
        lines = [
            (r.levelname, r.getMessage()) for r in caplog.records if "under test" in r.msg % r.args
        ]
        assert any(level == "WARNING" and "plug" in line for level, line in lines), lines
        assert any(level == "INFO" and "READY" in line for level, line in lines), lines
        assert not any("\x1b" in line for _, line in lines)

    def test_a_mapping(self, store: Store, writers: list[Store]) -> None:
        """What a dict does, as far as a store does it."""
        writers[-1].put_many({"a": "one", "b/c": "two"})
        assert dict(store) == dict(store.items()) == store.copy() == {"a": "one", "b/c": "two"}
        assert sorted(store.values()) == ["one", "two"]
        assert sorted(store.keys()) == sorted(store) == ["a", "b/c"]
        assert store | {"d": 3} == {"a": "one", "b/c": "two", "d": 3}
        assert ("a" in store, "z" in store, "a/" in store, "" in store) == (
            True,
            False,
            False,
            False,
        )
        assert store.get("z", "none") == "none"
        assert store
        if Feature.WRITE in store.features:
            assert store.setdefault("a", "nine") == "one"
            assert store.setdefault("new", "nine") == "nine"
            assert store.pop("new") == "nine"
            assert store.pop("new", None) is None
            with pytest.raises(KeyNotFound):
                store.pop("new")
            store.clear()
            assert len(store) == 0
            with pytest.raises(KeyNotFound):
                store.popitem()

    @pytest.mark.parametrize("key", ODD_KEYS, ids=lambda key: ascii(key)[:20])
    def test_odd_keys(self, store: Store, writers: list[Store], key: str) -> None:
        recorder = Recorder(store)
        try:
            writers[0].put(key, "odd")
        except InvalidKey:
            assert store.snapshot() == {}, "refused, yet written"
            return
        assert store[key] == "odd"
        assert list(store) == [key]
        assert [c.key for c in store.capabilities()] == [key]
        recorder.wait_state({key: b"odd"})
        del writers[0][key]
        recorder.wait_state({})

    @pytest.mark.parametrize("key", BAD_KEYS, ids=ascii)
    def test_bad_keys(self, store: Store, key: str) -> None:
        for action in (
            lambda: store.put(key, 1),
            lambda: store.delete(key),
            lambda: store.entry(key),
        ):
            with pytest.raises((InvalidKey, ReadOnly)):
                action()
        assert store.snapshot() == {}

    @pytest.mark.parametrize(
        "value", [b"", b"\0\xff" * 10, b"x" * 3_000_000, "", "ü" * 100], ids=lambda v: str(len(v))
    )
    def test_values(self, store: Store, writers: list[Store], value: bytes | str) -> None:
        recorder = Recorder(store, "k")
        stored = writers[0].put("k", value)
        assert store.entry("k") == stored
        # Text in bytes comes back as text where only the content tells what it is.
        if Feature.TYPES in store.features or isinstance(value, str):
            assert store["k"] == value
        assert stored.value == (value.encode() if isinstance(value, str) else value)
        recorder.wait_state({"k": stored.value})

    def test_types_that_do_not_match_their_bytes(self, store: Store, elsewhere: Store) -> None:
        recorder = Recorder(store, "k")
        try:
            elsewhere.put("k", b"not a number", value_type="int")
        except InvalidValue:
            assert store.snapshot() == {}, "refused, yet written"
            return
        if Feature.TYPES in store.features:
            with pytest.raises(InvalidValue, match="'k'"):
                store["k"]
        else:
            assert store["k"] == "not a number"
        elsewhere.put("k", 5)
        recorder.wait_state({"k": b"5"})
        assert recorder.error is None

    def test_refuses_writes_it_does_not_declare(self, store: Store) -> None:
        if Feature.WRITE in store.features:
            pytest.skip("this backend can be written")
        with pytest.raises(ReadOnly):
            store.put("k", 1)
        with pytest.raises(ReadOnly):
            store.delete("k")


def _changes(recorder: Recorder) -> dict[str, bytes | None]:
    return {
        entry.key: None if entry.operation is Operation.DELETE else entry.value
        for entry in recorder.batches[0].entries
    }


def _count(store: Store, times: int) -> None:
    """Add one, `times` times, by compare-and-set."""
    for _ in range(times):
        while True:
            entry = store.entry("count")
            try:
                store.put("count", entry.decode() + 1, expect=entry.revision)
                break
            except RevisionConflict:
                continue


def _follow_status(store: Store) -> tuple[list[Status], threading.Condition]:
    statuses: list[Status] = []
    changed = threading.Condition()

    def take(status: Status) -> None:
        with changed:
            statuses.append(status)
            changed.notify_all()

    store.status.subscribe(take)
    return statuses, changed


def _await_state(statuses: list[Status], changed: threading.Condition, state: State) -> None:
    with changed:
        passed = changed.wait_for(lambda: any(s.state is state for s in statuses), TIMEOUT)
        assert passed, f"the status never became {state}"
        # What comes next is to be awaited from here on.
        while statuses.pop(0).state is not state:
            pass
