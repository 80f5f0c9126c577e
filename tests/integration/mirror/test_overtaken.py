"""What was decided about a key is not lost, and not outlived by what the source held then."""

import pytest

from datastream import DatastreamError, Feature, SourceUnavailable, State, Store, mirror
from datastream._mirror.worker import Worker
from datastream.selection import is_reserved
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


class Overtaken(MemorySource):
    """Memory in which others are faster once."""

    instant = False
    faster = None

    def write(self, writes):
        is_place = all(is_reserved(write.key) for write in writes)
        faster, self.faster = (self.faster, None) if not is_place else (None, self.faster)
        if faster is not None:
            faster()
        return super().write(writes)


@pytest.fixture
def overtaken(stack, table):
    return stack.enter_context(Store(Overtaken(table), name=f"memory:{table}"))


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "first"])
def test_what_others_write_while_both_are_compared_is_not_overwritten(
    source, overtaken, other, ours
):
    source.put_many({"a": 1, "b": 1, "c": 1})
    if ours:
        with mirror(source, overtaken, delete=False) as running:
            assert running.flush(LONG)
        source.put_many({"a": 2, "new": 2})
        del source["c"]
    overtaken._source.faster = lambda: other.put_many({"a": "theirs", "new": "theirs"})
    with mirror(source, overtaken) as running:
        with pytest.raises(DatastreamError, match="which others wrote"):
            running.flush(LONG)
        assert values(other)["a"] == values(other)["new"] == "theirs"
    with mirror(source, overtaken, on_conflict="target") as running:
        assert running.flush(LONG)
    there = {"a": "theirs", "b": 1, "new": "theirs"} | ({} if ours else {"c": 1})
    assert values(other) == there


def test_a_decision_of_a_comparison_is_made_anew_when_others_are_faster(source, overtaken, other):
    asked = []

    def decide(conflict):
        asked.append(conflict.target.value)
        return "source" if len(asked) == 1 else "target"

    source.put_many({"a": "ours", "b": 1})
    other["a"] = "first"
    overtaken._source.faster = lambda: other.put("a", "second")
    with mirror(source, overtaken, on_conflict=decide) as running:
        assert running.flush(LONG)
    assert asked == [b"first", b"second"]
    assert values(other) == {"a": "second", "b": 1}


def test_what_others_write_after_a_mirror_was_closed_in_the_midst_is_theirs(
    source, overtaken, other
):
    """Its last write was shown to it, and is named in its place as one that may be its own."""
    source["a"] = 1
    with mirror(source, overtaken) as running:
        assert running.flush(LONG)
        wrote = running._worker.ledger.wrote

        def wrote_and_closed(*args, **kwargs):
            wrote(*args, **kwargs)
            running.close()

        running._worker.ledger.wrote = wrote_and_closed
        source["a"] = 2
        eventually(lambda: running.status.current.state is State.CLOSED, "it ends")
    other["a"] = "theirs"
    with mirror(source, overtaken) as running:
        with pytest.raises(DatastreamError, match="'a', which others wrote"):
            running.flush(LONG)
    assert values(other) == {"a": "theirs"}


def test_what_others_write_while_a_decision_is_looked_at_once_more_is_theirs(
    source, overtaken, other
):
    asked = []

    def decide(conflict):
        asked.append(conflict.target.value)
        return "source" if len(asked) == 1 else "target"

    source["a"] = "ours"
    with mirror(source, overtaken, on_conflict=decide) as running:
        assert running.flush(LONG)
        doubt = running._worker.ledger.doubt

        def doubt_and_be_late():
            doubted = doubt()
            if doubted and len(asked) == 1:
                other["a"] = "second"
            return doubted

        running._worker.ledger.doubt = doubt_and_be_late
        other["a"] = "first"
        assert running.flush(LONG)
    assert asked == [b"first", b"second"]
    assert values(other) == {"a": "second"}


def test_what_others_remove_while_both_are_compared_is_no_trouble(source, overtaken, other):
    source.put_many({"a": 1, "b": 1})
    with mirror(source, overtaken, delete=False) as running:
        assert running.flush(LONG)
    del source["b"]
    overtaken._source.faster = lambda: other.delete("b")
    with mirror(source, overtaken) as running:
        assert running.flush(LONG)
    assert values(other) == {"a": 1}


def test_what_others_bring_to_what_the_source_holds_while_it_is_judged_stays_the_mirrors(
    source, target, other, monkeypatch
):
    """What the source holds is read after all that is known of the target."""
    read, agreed = Worker._read, []

    def meanwhile(store, keys):
        found = read(store, keys)
        if store is source and not agreed:
            agreed.append(2)
            source["a"] = other["a"] = 2
        return found

    source["a"] = 1
    with mirror(source, target, on_conflict="target") as running:
        assert running.flush(LONG)
        monkeypatch.setattr(Worker, "_read", staticmethod(meanwhile))
        other["a"] = "theirs"
        eventually(lambda: agreed, "it is judged")
        assert running.flush(LONG)
        source["a"] = 3
        assert running.flush(LONG)
    assert values(target) == {"a": 3}


def test_what_is_stored_late_of_a_write_that_failed_is_the_mirrors_also_while_it_looks_once_more(
    source, overtaken, other
):
    """Its answer was lost, and it comes after the one that was tried again."""
    asked, late = [], []

    def decide(conflict):
        asked.append(conflict.target.value)
        return "source" if len(asked) == 1 else "target"

    def lose():
        late.append(1)
        source["a"] = 2
        raise SourceUnavailable("the answer was lost")

    source["a"] = 1
    with mirror(source, overtaken, on_conflict=decide) as running:
        assert running.flush(LONG)
        doubt = running._worker.ledger.doubt

        def doubt_and_be_late():
            doubted = doubt()
            if doubted and late:
                source["a"] = 3
                other["a"] = late.pop()
            return doubted

        running._worker.ledger.doubt = doubt_and_be_late
        overtaken._source.faster = lose
        other["a"] = b"theirs"
        eventually(lambda: 3 in values(overtaken).values() or len(asked) > 1, "it is decided")
    assert (asked, late) == ([b"theirs"], [])


@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "plain"])
def test_what_was_stored_of_a_first_write_whose_answer_was_lost_is_the_mirrors(
    source, overtaken, other, atomic
):
    """Also where the source has gone on before both are compared once more."""
    if not atomic:
        overtaken._source.features -= {Feature.ATOMIC}

    def lose():
        other.put_many({"a": 1, "b": 1, "c": 1})
        source["a"] = 2
        del source["b"]
        raise SourceUnavailable("the answer was lost")

    source.put_many({"a": 1, "b": 1, "c": 1})
    overtaken._source.faster = lose
    with mirror(source, overtaken) as running:
        ends = State.READY, State.FAILED
        eventually(lambda: overtaken._source.faster is None, "it was tried")
        eventually(lambda: running.status.current.state in ends, "it is decided")
        assert running.flush(LONG)
    assert values(overtaken) == {"a": 2, "c": 1}
