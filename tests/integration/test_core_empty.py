"""That everything is gone is believed after two looks a real time apart, own deletes subtracted."""

from contextlib import suppress

import pytest

from datastream import Operation, SourceUnavailable, State, Store
from datastream._watch import confirm_empty
from datastream.testing import Recorder
from tests.integration._core_sources import Call, Listing
from tests.integration._programs.tools import Statuses, eventually


@pytest.fixture(autouse=True)
def no_time_passes(monkeypatch):
    """However slow the machine: no second look is late enough to confirm the first."""
    monkeypatch.setattr(confirm_empty, "CONFIRM_AFTER", 3600)


@pytest.fixture
def source():
    return Listing()


@pytest.fixture
def store(source):
    with Store(source) as store:
        store.put_many({"a": b"a", "b": b"b", "c": b"c"})
        yield store


@pytest.fixture
def everything(store):
    recorder = Recorder(store)
    recorder.wait_ready()
    return recorder


FULL = {"a": b"a", "b": b"b", "c": b"c"}


def deletes(recorder):
    return [entry.key for entry in recorder.entries if entry.operation is Operation.DELETE]


def looks(source, store, count):
    """Let the poller look so often at an empty backend, a moment apart."""
    for _ in range(count):
        before = source.reads
        store.refresh()
        eventually(lambda before=before: source.reads > before, "the poller looks")


def recovers(source, store, recorder, expected):
    source.is_empty = False
    source.change(end=b"1")
    recorder.wait_state({**expected, "end": b"1"})
    Statuses(store).wait(State.READY)


def test_an_empty_answer_after_an_own_delete_deletes_nothing_else(source, store, everything):
    source.is_empty = True
    Call(store.delete, "a").ends("delete")
    looks(source, store, 3)
    assert set(deletes(everything)) <= {"a"}
    recovers(source, store, everything, {"b": b"b", "c": b"c"})
    assert deletes(everything) == ["a"]


def test_looks_in_quick_succession_are_one_look(source, store, everything):
    """However many readers come: newcomers, refreshes, puts that fail."""
    source.is_empty = True
    newcomers = [Recorder(store, key) for key in ("x", "y")]
    looks(source, store, 5)
    Recorder(store, "a")
    assert deletes(everything) == []
    recovers(source, store, everything, FULL)
    assert deletes(everything) == []
    assert [deletes(newcomer) for newcomer in newcomers] == [[], []]


def test_a_newcomer_is_not_given_an_empty_state_for_no_reason(source, store, everything):
    source.is_empty = True
    newcomer = Recorder(store)
    looks(source, store, 3)
    source.is_empty = False
    store.refresh()
    newcomer.wait_state(FULL)
    assert len(newcomer.batches) == 1
    assert {entry.key for entry in newcomer.batches[0].entries} == {"a", "b", "c"}


def test_a_snapshot_is_not_empty_for_no_reason(source, store, everything):
    source.is_empty = True
    before = source.reads
    snapshot = Call(store.snapshot)
    eventually(lambda: source.reads > before, "it is read")
    source.is_empty = False
    # It either waits for the second look, or says why it has no answer.
    with suppress(SourceUnavailable):
        assert snapshot.ends("snapshot").keys() == {"a", "b", "c"}
    assert store.snapshot().keys() == {"a", "b", "c"}
    assert deletes(everything) == []


@pytest.mark.parametrize("since", ["cursor", "map"])
@pytest.mark.parametrize("watched", [True, False])
def test_a_resume_is_not_told_that_all_is_gone_for_no_reason(source, store, since, watched):
    batch = store.snapshot_batch()
    others = Recorder(store) if watched else None
    revisions = {entry.key: entry.revision for entry in batch.entries}
    source.is_empty = True
    before = source.reads
    resumed = Call(
        lambda: Recorder(
            store, since=batch.cursor if since == "cursor" else revisions, had=dict(FULL)
        )
    )
    eventually(lambda: source.reads > before, "it is read")
    source.is_empty = False
    recorder = resumed.ends("subscribe")
    store.refresh()
    recorder.wait_ready()
    source.change(end=b"1")
    recorder.wait_state({**FULL, "end": b"1"})
    assert deletes(recorder) == []
    assert others is None or deletes(others) == []


def test_the_status_says_that_all_has_vanished(source, store, everything):
    statuses = Statuses(store)
    source.is_empty = True
    store.refresh()
    status = statuses.wait(State.STALE)
    assert "vanished" in str(status.error)
    recovers(source, store, everything, FULL)


def test_it_is_believed_when_a_later_look_says_the_same(source, store, everything, monkeypatch):
    monkeypatch.setattr(confirm_empty, "CONFIRM_AFTER", 0.2)
    source.change(a=None, b=None, c=None)
    everything.wait_state({})
    assert sorted(deletes(everything)) == ["a", "b", "c"]
    Statuses(store).wait(State.READY)


def test_own_deletes_of_everything_are_told_at_once(store, everything):
    for key in "abc":
        del store[key]
        assert store.flush(30)
        assert key not in everything.state
    assert everything.state == {}
    assert deletes(everything) == ["a", "b", "c"]


def test_clear_is_told_at_once(store, everything):
    store.clear()
    assert store.flush(30)
    assert everything.state == {}


def test_the_last_own_delete_after_anothers_is_told(source, store, everything):
    """Another program deletes the rest, then this store what remains."""
    source.change(a=None, b=None)
    everything.wait_state({"c": b"c"})
    del store["c"]
    assert store.flush(30)
    assert everything.state == {}
