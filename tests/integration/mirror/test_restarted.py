"""Mirrors that are started again with other options, or over what an earlier one could not do."""

import pytest

from datastream import DatastreamError, Feature, InvalidValue, State, Store, mirror
from datastream._mirror import ledger, worker
from datastream._mirror.progress import MIRRORS, Progress
from datastream.sources.memory import MemorySource
from tests.integration._programs.tools import eventually
from tests.integration.mirror.tools import values

LONG = 30


class Words(MemorySource):
    """Memory that cannot hold numbers."""

    instant = False

    def write(self, writes):
        for write in writes:
            if write.value_type == "int":
                raise InvalidValue(f"{write.key!r} is a number")
        return super().write(writes)


@pytest.fixture
def target(stack, table):
    return stack.enter_context(Store(MemorySource(table), name="target"))


@pytest.fixture
def words(stack, table):
    return stack.enter_context(Store(Words(table), name=f"memory:{table}"))


def run(source, target, **options):
    """Let a mirror do all there is to do; what it could not write."""
    with mirror(source, target, **options) as running:
        assert running.flush(LONG)
        assert running.status.current.state is State.READY
        named = "cannot be held" in running.status.current.degraded
        assert named == bool(running.refused)
        return running.refused


def killed(running):
    """End a mirror as the end of its process does, right after its last write."""
    running._worker._end = running._worker._feeds.leave
    running.close()


# Other options.


@pytest.mark.parametrize("kind", ["memory", "sqlite", "git", "file"])
def test_deletes_that_were_left_out_are_made_up_for(kinds, source, kind):
    target = kinds.open(kind)
    source.put_many({"a.txt": "1", "b.txt": "1"})
    run(source, target, delete=False)
    with mirror(source, target, delete=False) as running:
        del source["b.txt"]
        assert running.flush(LONG)
    run(source, target, delete=False)
    assert values(target) == {"a.txt": "1", "b.txt": "1"}
    run(source, target)
    assert values(target) == {"a.txt": "1"}


@pytest.mark.parametrize("deletes", [True, False])
def test_what_was_left_to_others_is_decided_anew_by_other_rules(source, target, other, deletes):
    source.put_many({"a": 1, "b": 1})
    with mirror(source, target, on_conflict="target") as running:
        assert running.flush(LONG)
        other["a"] = "theirs"
        assert running.flush(LONG)
    run(source, target, on_conflict="target")
    assert values(target) == {"a": "theirs", "b": 1}
    with mirror(source, target) as running, pytest.raises(DatastreamError, match="others wrote"):
        running.flush(LONG)
    assert values(target) == {"a": "theirs", "b": 1}
    run(source, target, on_conflict="source", delete=deletes)
    assert values(target) == {"a": 1, "b": 1}


def test_what_was_left_to_others_and_is_gone_from_the_source_is_decided_when_it_is_back(
    source, target, other
):
    source["b"] = 1
    with mirror(source, target, on_conflict="target") as running:
        assert running.flush(LONG)
        other["a"] = "theirs"
        assert running.flush(LONG)
    with mirror(source, target, on_conflict="source", delete=False) as running:
        assert running.flush(LONG)
        assert values(target) == {"a": "theirs", "b": 1}
        source["a"] = 2
        assert running.flush(LONG)
        assert values(target) == {"a": 2, "b": 1}


def test_what_was_put_back_is_known_as_its_own_after_a_crash(source, target, other, monkeypatch):
    source.put_many({"a": 1, "b": 1})
    running = mirror(source, target, on_conflict="source")
    assert running.flush(LONG)
    monkeypatch.setattr(running._worker.ledger, "save", lambda: None)
    other["a"] = "theirs"
    del other["b"]
    assert running.flush(LONG)
    assert values(target) == {"a": 1, "b": 1}
    killed(running)
    source["a"] = 2
    del source["b"]
    run(source, target)
    assert values(target) == {"a": 2}


# Others who hold more.


@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("before", [True, False])
def test_what_others_hold_beside_the_source_is_not_overwritten_once_it_holds_that_too(
    source, target, other, before, restart
):
    source["a"] = 1
    if before:
        other["more"] = "theirs"
    running = mirror(source, target, delete=False)
    assert running.flush(LONG)
    other["more"] = "theirs"
    assert running.flush(LONG)
    if restart:
        running.close()
        running = mirror(source, target, delete=False)
        assert running.flush(LONG)
    source["more"] = 2
    with pytest.raises(DatastreamError, match="'more', which others wrote"):
        running.flush(LONG)
    running.close()
    run(source, target, delete=False, on_conflict="target")
    assert values(target) == {"a": 1, "more": "theirs"}
    source["more"] = 3
    run(source, target, delete=False, on_conflict="source")
    assert values(target) == {"a": 1, "more": 3}


def test_of_very_many_keys_of_others_the_place_names_no_more_than_some(
    source, target, other, monkeypatch
):
    """It is written with each change."""
    monkeypatch.setattr(ledger, "MOST_EXTRA", 10)
    source["a"] = 1
    with mirror(source, target, delete=False) as running:
        assert running.flush(LONG)
        for step in range(0, 20, 5):
            other.put_many({f"more/{number}": "theirs" for number in range(step, step + 5)})
            assert running.flush(LONG)
    (place,) = other.snapshot(MIRRORS).values()
    assert len(Progress.loads(place.value, "kept").theirs) == 10
    assert len(values(target)) == 21


def test_what_the_source_had_removed_is_written_again_where_it_stayed(source, target):
    source.put_many({"a": 1, "b": 1})
    with mirror(source, target, delete=False) as running:
        assert running.flush(LONG)
        del source["a"]
        assert running.flush(LONG)
        source["a"] = 2
        assert running.flush(LONG)
        del source["b"]
        assert running.flush(LONG)
    source["b"] = 2
    run(source, target, delete=False)
    assert values(target) == {"a": 2, "b": 2}


# What the target cannot hold.


@pytest.mark.parametrize("dies", [True, False])
def test_what_could_not_be_held_is_named_by_the_next_mirror_too(source, words, table, dies):
    source["a"] = "one"
    running = mirror(source, words)
    assert running.flush(LONG)
    source["a"] = 1
    assert running.flush(LONG)
    if dies:
        killed(running)
    else:
        running.close()
    assert list(run(source, words)) == ["a"]
    # It is tried again.
    with Store(MemorySource(table), name=words.name) as able:
        assert run(source, able) == {}
        assert values(able) == {"a": 1}


def test_what_could_not_be_held_is_named_by_a_mirror_that_was_killed_in_the_midst(
    source, words, monkeypatch
):
    """Right after the transaction which has the place in it."""
    running = mirror(source, words)
    assert running.flush(LONG)
    monkeypatch.setattr(running._worker.ledger, "save", lambda: None)
    source.put_many({"a": 1, "b": "two"})
    assert running.flush(LONG)
    killed(running)
    assert list(run(source, words)) == ["a"]


def test_what_could_not_be_held_is_not_forgotten_by_a_mirror_that_refuses_to_begin(
    source, words, other
):
    source.put_many({"a": 1, "b": "two"})
    assert list(run(source, words, delete=False)) == ["a"]
    other["b"] = "theirs"
    with mirror(source, words) as running, pytest.raises(DatastreamError, match="others wrote"):
        running.flush(LONG)
    assert list(run(source, words, on_conflict="target", delete=False)) == ["a"]


@pytest.mark.parametrize("dies", [True, False])
def test_what_others_wrote_beside_very_much_that_could_not_be_held_is_theirs(
    source, words, other, dies, monkeypatch
):
    monkeypatch.setattr(ledger, "MOST_REFUSED", 3)
    source.put_many({"a": "one", "b": 1, "c": 2, "d": 3, "e": 4})
    running = mirror(source, words)
    assert running.flush(LONG)
    eventually(lambda: running._worker.ledger.is_saved, "the place is kept")
    if dies:
        killed(running)
    else:
        running.close()
    other["a"] = "theirs"
    with mirror(source, words) as running:
        with pytest.raises(DatastreamError, match="'a', which others wrote"):
            running.flush(LONG)
    assert list(run(source, words, on_conflict="target")) == ["b", "c", "d", "e"]
    assert values(other) == {"a": "theirs"}


def test_what_could_not_be_held_is_nobody_elses_where_a_mirror_was_closed_before_it_tried_again(
    source, words
):
    source.put_many({"a": 1, "b": "two", "c": "three"})
    with mirror(source, words) as running:
        assert running.flush(LONG)
        running._worker._look_at_suspects = running.close
        # It makes room.
        del source["b"]
        eventually(lambda: running.status.current.state is State.CLOSED, "it ends")
    assert list(run(source, words, on_conflict="target")) == ["a"]


@pytest.mark.parametrize("deletes", [True, False])
@pytest.mark.parametrize("others", [True, False])
def test_what_the_source_has_removed_is_not_said_to_be_refused(
    source, words, other, others, deletes
):
    with mirror(source, words, on_conflict="target", delete=deletes) as running:
        source.put_many({"a": 1, "b": "two"})
        assert running.flush(LONG)
        assert list(running.refused) == ["a"]
        if others:
            other["a"] = "theirs"
            assert running.flush(LONG)
        del source["a"]
        assert running.flush(LONG)
        assert running.refused == {}
        assert running.status.current.degraded == ""


@pytest.mark.parametrize("restart", [True, False])
def test_what_others_write_where_nothing_could_be_held_is_theirs(source, words, other, restart):
    source.put_many({"a": 1, "b": "two"})
    running = mirror(source, words)
    assert running.flush(LONG)
    if restart:
        running.close()
    other["a"] = "theirs"
    if restart:
        running = mirror(source, words)
    with pytest.raises(DatastreamError, match="'a', which others wrote"):
        running.flush(LONG)
    source["a"] = "one"
    with pytest.raises(DatastreamError, match="'a', which others wrote"):
        running.flush(LONG)
    running.close()
    run(source, words, on_conflict="target")
    assert values(words) == {"a": "theirs", "b": "two"}


@pytest.mark.parametrize("expects", [True, False])
@pytest.mark.parametrize("before", ["one", None])
def test_what_others_write_after_a_change_could_not_be_held_is_theirs(
    source, words, other, before, expects
):
    """Also where the target compares no revisions, so that none was read."""
    if not expects:
        words._source.features -= {Feature.COMPARE_AND_SET}
    source["b"] = "two"
    if before:
        source["a"] = before
    with mirror(source, words) as running:
        assert running.flush(LONG)
        source["a"] = 1
        assert running.flush(LONG)
        assert list(running.refused) == ["a"]
        other["a"] = "theirs"
        with pytest.raises(DatastreamError, match="'a', which others wrote"):
            running.flush(LONG)
        source["a"] = "three"
        with pytest.raises(DatastreamError, match="'a', which others wrote"):
            running.flush(LONG)
    assert values(words) == {"a": "theirs", "b": "two"}


@pytest.mark.parametrize("expects", [True, False])
def test_what_others_write_as_a_key_that_could_not_be_held_is_tried_again_is_theirs(
    source, words, other, expects, monkeypatch
):
    """Deletes may have made room for it; others are there before both stores are read."""
    if not expects:
        words._source.features -= {Feature.COMPARE_AND_SET}
    look, theirs = worker.Worker._look_at_suspects, ["theirs"]

    def overtaken(self):
        if theirs:
            source["a"] = "three"
            other["a"] = theirs.pop()
        look(self)

    source.put_many({"b": "two", "c": "two"})
    with mirror(source, words) as running:
        assert running.flush(LONG)
        source["a"] = 1
        assert running.flush(LONG)
        monkeypatch.setattr(worker.Worker, "_look_at_suspects", overtaken)
        del source["c"]
        with pytest.raises(DatastreamError, match="'a', which others wrote"):
            running.flush(LONG)
    assert (values(words), theirs) == ({"a": "theirs", "b": "two"}, [])


@pytest.mark.parametrize("at", ["_resume", "_look_at_suspects"])
def test_what_others_write_as_a_mirror_starts_again_is_theirs_though_it_could_not_be_held(
    source, words, other, table, at, monkeypatch
):
    """It is tried again, unless others were there first: also just before both are read."""
    source.put_many({"a": 1, "b": "two"})
    assert list(run(source, words)) == ["a"]
    step, theirs = getattr(worker.Worker, at), ["theirs"]

    def overtaken(self, *args):
        if at == "_resume":
            step(self, *args)
        if theirs:
            other["a"] = theirs.pop()
        if at != "_resume":
            step(self, *args)

    monkeypatch.setattr(worker.Worker, at, overtaken)
    with Store(MemorySource(table), name=words.name) as able, mirror(source, able) as running:
        with pytest.raises(DatastreamError, match="'a', which others wrote"):
            running.flush(LONG)
        assert values(able) == {"a": "theirs", "b": "two"}


def test_what_others_write_as_a_mirror_starts_again_is_theirs_though_it_wrote_that_last(
    source, target, other, monkeypatch
):
    """The place was in the transaction of that write: what is shown from then on is another one."""
    source["a"] = 1
    running = mirror(source, target)
    assert running.flush(LONG)
    monkeypatch.setattr(running._worker.ledger, "save", lambda: None)
    source["a"] = 2
    assert running.flush(LONG)
    killed(running)
    resume = worker.Worker._resume

    def overtaken(self, first):
        resume(self, first)
        other["a"] = "theirs"

    monkeypatch.setattr(worker.Worker, "_resume", overtaken)
    with mirror(source, target) as running:
        with pytest.raises(DatastreamError, match="'a', which others wrote"):
            running.flush(LONG)
    assert values(target) == {"a": "theirs"}


def test_what_was_decided_is_forgotten_when_others_write_once_more(source, target, other):
    asked = []

    def decide(conflict):
        asked.append(conflict.target.value)
        if len(asked) > 1:
            return "target"
        # Its watch tells of it before what is decided here can be written.
        other["a"] = "second"
        target._core.catch_up()
        return "source"

    source["a"] = "ours"
    with mirror(source, target, on_conflict=decide) as running:
        assert running.flush(LONG)
        other["a"] = "first"
        assert running.flush(LONG)
    assert asked == [b"first", b"second"]
    assert values(target) == {"a": "second"}
