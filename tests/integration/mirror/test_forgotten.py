"""Mirrors whose target has forgotten what others wrote, or never answered what became of a write."""

import json
import secrets

import pytest

import datastream
from datastream import DatastreamError, SourceUnavailable, State, Store, mirror
from datastream._mirror.worker import Worker
from datastream.sources.memory import MemorySource
from tests.integration._programs.tools import eventually

LONG = 30


class Forgetful(MemorySource):
    """Memory whose log may be lost, and whose answers may be."""

    instant = False
    forgets = False
    failure = lost = None

    def read(self, selection, since):
        return super().read(selection, None if self.forgets else since)

    def write(self, writes):
        if self.failure is not None:
            raise self.failure
        written = super().write(writes)
        if self.lost is not None:
            raise self.lost
        return written


@pytest.fixture
def source(stack):
    return stack.enter_context(datastream.open("memory:"))


@pytest.fixture
def table():
    return secrets.token_hex(8)


@pytest.fixture
def target(stack, table):
    return stack.enter_context(Store(Forgetful(table), name="target"))


@pytest.fixture
def other(stack, table):
    """Somebody else's store over the same table."""
    return stack.enter_context(Store(MemorySource(table), name="other"))


def values(store):
    return {k: v for k, v in store.items() if not k.startswith("_datastream/")}


def doomed(running):
    """One that will have been killed: it only keeps what it is about to write."""
    running._worker.ledger.save = lambda: None
    return running


def test_what_a_killed_mirror_judged_is_its_own_though_the_target_forgot(
    source, target, tmp_path, monkeypatch
):
    options = {"place": tmp_path / "place"}
    with mirror(source, target, **options) as running:
        assert running.flush(LONG)
    with doomed(mirror(source, target, **options)) as running:
        source.put_many({"a": 1, "b": 1})
        assert running.flush(LONG)
    real = Worker._read

    def meanwhile(store, keys):
        if store is source and source["a"] == 1:
            source.put_many({"a": 2, "b": 2})
            target._source.failure = SourceUnavailable("the disk is full")
        return real(store, keys)

    # It looks at what its predecessor wrote while the source goes on, and keeps that it did.
    monkeypatch.setattr(Worker, "_read", staticmethod(meanwhile))
    with doomed(mirror(source, target, **options)) as running:
        eventually(lambda: running.status.current.state is State.STALE, "it cannot be written")
    monkeypatch.undo()
    assert json.loads((tmp_path / "place").read_text())["suspects"] == ["a", "b"]
    source.put_many({"a": 3, "b": 3})
    target._source.failure, target._source.forgets = None, True
    with mirror(source, target, **options) as running:
        assert running.flush(LONG)
    assert values(target) == {"a": 3, "b": 3}


def test_a_write_whose_answer_was_lost_is_nobody_elses(source, target):
    source["a"] = 1
    with mirror(source, target) as running:
        assert running.flush(LONG)
        target._source.lost = SourceUnavailable("the connection broke")
        source["a"] = 2
        eventually(lambda: running.status.current.state is State.STALE, "the answer is lost")
        assert target["a"] == 2
        source["a"] = 3
        target._source.lost = None
        assert running.flush(LONG)
        assert values(target) == {"a": 3}


def test_what_others_wrote_over_a_batch_is_refused_after_a_restart_too(source, target, other):
    source["a"] = 1
    running = mirror(source, target, delete=False)
    assert running.flush(LONG)
    real = target._source.write

    def overtaken(writes):
        # Before and after, so that the watch shows all of it as one change.
        is_first = any(write.key == "a" for write in writes) and "more" not in other
        if is_first:
            other["more"] = 1
        written = real(writes)
        if is_first:
            other["a"] = "theirs"
        return written

    target._source.write = overtaken
    source["a"] = 2
    eventually(lambda: running.status.current.state is State.FAILED, "others wrote")
    running.close()
    with mirror(source, target, delete=False) as running:
        with pytest.raises(DatastreamError, match="'a', which others wrote"):
            running.flush(LONG)
    assert values(target) == {"a": "theirs", "more": 1}
