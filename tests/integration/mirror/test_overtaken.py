"""What was decided about a key is not lost, and not outlived by what the source held then."""

import pytest

from datastream import Feature, SourceUnavailable, State, Store, mirror
from datastream._mirror.worker import Worker
from datastream.sources.memory import MemorySource
from tests.integration._programs.tools import eventually
from tests.integration.mirror.tools import values

LONG = 30


class Plain(MemorySource):
    """Memory without transactions, whose writes may fail."""

    features = MemorySource.features - {Feature.ATOMIC}
    failure = None

    def write(self, writes):
        if self.failure is not None:
            raise self.failure
        return super().write(writes)


@pytest.fixture
def target(stack, table):
    return stack.enter_context(Store(Plain(table), name="target"))


def test_a_key_that_came_and_went_while_it_was_judged(source, target, other, monkeypatch):
    read = Worker._read

    def meanwhile(store, keys):
        if store is source and "a" not in source:
            source["a"] = "brief"
            found = read(store, keys)
            del source["a"]
            return found
        return read(store, keys)

    with mirror(source, target, on_conflict="source") as running:
        assert running.flush(LONG)
        monkeypatch.setattr(Worker, "_read", staticmethod(meanwhile))
        other["a"] = "theirs"
        eventually(lambda: running.counts.puts, "what the source held is written")
        monkeypatch.undo()
        assert running.flush(LONG)
    assert values(target) == {}


def test_what_was_decided_and_not_written_is_decided_again(source, target, other):
    source["a"] = 1
    running = mirror(source, target, on_conflict="source")
    assert running.flush(LONG)
    target._source.failure = SourceUnavailable("the disk is full")
    other["a"] = 2
    eventually(lambda: running.status.current.state is State.STALE, "it cannot be written")
    running.close()
    target._source.failure = None
    with mirror(source, target, on_conflict="source") as running:
        assert running.flush(LONG)
    assert values(target) == {"a": 1}


def test_a_dry_run_decides_nothing_of_what_others_wrote_before(source, target, other):
    source["a"] = 1
    with mirror(source, target) as running:
        assert running.flush(LONG)
        other["a"] = 2
        eventually(lambda: running.status.current.state is State.FAILED, "it is refused")
    with mirror(source, target, on_conflict="source", dry_run=True) as running:
        assert running.ready(LONG)
        assert [(write.key, write.value) for write in running.planned] == [("a", b"1")]
        running.flush(LONG)
        assert values(target) == {"a": 2}
