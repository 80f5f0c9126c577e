"""Mirrors whose target forgets what others wrote, or does not say what became of a write."""

import json

import pytest

import datastream
from datastream import DatastreamError, InvalidValue, SourceUnavailable, State, Store, mirror
from datastream._mirror import ledger, worker
from datastream._mirror.target import Target
from datastream._mirror.worker import Worker
from datastream.sources.memory import MemorySource
from tests.integration._programs.tools import eventually
from tests.integration.mirror.tools import values

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
def target(stack, table):
    return stack.enter_context(Store(Forgetful(table), name="target"))


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


def test_what_others_removed_right_after_it_was_written_is_written_again(source, target, other):
    """It came and went since the place was kept: no watch tells of that."""
    source["a"] = 1
    with mirror(source, target) as running:
        assert running.flush(LONG)
    with doomed(mirror(source, target)) as running:
        source["b"] = 1
        assert running.flush(LONG)
        del other["b"]
        running._worker._end = running._worker._feeds.leave
    with mirror(source, target) as running:
        assert running.flush(LONG)
    assert values(target) == {"a": 1, "b": 1}


@pytest.fixture(params=["file", "pruned"])
def forgetful(request, kinds, target):
    """A target that does not tell what others wrote while no mirror ran."""
    return kinds.open("file") if request.param == "file" else target


def stopped(source, target, **options):
    """A mirror that has run; then the target forgets what it had told."""
    with mirror(source, target, **options) as running:
        assert running.flush(LONG)
        refused = running.refused
    if isinstance(target._source, Forgetful):
        target._source.forgets = True
    return refused


def test_what_others_wrote_before_is_not_overwritten(source, forgetful):
    source.put_many({"a.txt": "1", "b.txt": "1", "c.txt": "1"})
    stopped(source, forgetful)
    forgetful["b.txt"] = "theirs"
    forgetful["new.txt"] = "theirs"
    source["a.txt"] = "2"
    with mirror(source, forgetful) as running:
        with pytest.raises(DatastreamError, match="and 1 more, which others wrote"):
            running.flush(LONG)
    # It stays theirs, also once the source changes it.
    source["b.txt"] = "2"
    with mirror(source, forgetful, on_conflict="target") as running:
        assert running.flush(LONG)
    there = {"a.txt": "2", "b.txt": "theirs", "c.txt": "1", "new.txt": "theirs"}
    assert values(forgetful) == there


def test_what_the_source_changed_since_is_nobody_elses(source, forgetful):
    source.put_many({f"{n}.txt": "1" for n in range(20)})
    stopped(source, forgetful)
    source.put_many({f"{n}.txt": "2" for n in range(15)})
    del source["19.txt"]
    with mirror(source, forgetful) as running:
        assert running.flush(LONG)
    assert values(forgetful) == dict(source)


class Words(Forgetful):
    """It cannot hold numbers."""

    def write(self, writes):
        for write in writes:
            if write.value_type == "int":
                raise InvalidValue(f"{write.key!r} is a number")
        return super().write(writes)


def test_what_the_target_could_not_hold_is_nobody_elses(source, table):
    source.put_many({"a": "one", "b": "two"})
    with Store(Words(table), name="target") as target:
        assert not stopped(source, target)
        target._source.forgets = False
        source["a"] = 1
        assert list(stopped(source, target)) == ["a"]
        with mirror(source, target) as running:
            assert running.flush(LONG)
            assert list(running.refused) == ["a"]
        assert values(target) == {"a": "one", "b": "two"}


def test_what_was_kept_without_deletes_is_nobody_elses(source, target):
    source.put_many({"a": 1, "b": 1})
    stopped(source, target, delete=False)
    target._source.forgets = False
    del source["b"]
    stopped(source, target, delete=False)
    with mirror(source, target) as running:
        assert running.flush(LONG)
    assert values(target) == {"a": 1}


def killed_after_one_piece(source, target, **options):
    """End a mirror after the first of three pieces, as the end of its process does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "CHUNK", 2)
        writes = Target.write

        def write(self, *args):
            if self.batches:
                raise SourceUnavailable("the process is being killed")
            writes(self, *args)

        patch.setattr(Target, "write", write)
        running = mirror(source, target, **options)
        eventually(lambda: running.status.current.state is State.STALE, "one piece is written")
        doomed(running).close()


@pytest.mark.parametrize("kind", ["memory", "sqlite", "file"])
def test_a_first_copy_that_was_killed_is_its_own(kinds, source, kind, tmp_path):
    target, options = kinds.open(kind), {"place": tmp_path / "place"}
    source.put_many({f"{n}.txt": "1" for n in range(6)})
    killed_after_one_piece(source, target, **options)
    assert len(values(target)) == 2
    source.put_many({f"{n}.txt": "2" for n in range(6)})
    with mirror(source, target, **options) as running:
        assert running.flush(LONG)
    assert values(target) == dict(source)


def test_a_comparison_that_was_killed_is_its_own_though_the_source_took_all_back(kinds, tmp_path):
    """Git compares two commits: of what came and went in between it tells nothing."""
    source, target, options = kinds.open("git"), kinds.open("file"), {"place": tmp_path / "place"}
    before = {f"{n}.txt": "1" for n in range(6)}
    source.put_many(before)
    stopped(source, target, **options)
    source.put_many(dict.fromkeys(before, "2"))
    # Opened anew, it does not know what has changed, and both are compared.
    with datastream.open(target.name) as reopened:
        killed_after_one_piece(source, reopened, **options)
    assert sorted(values(target).values()) == ["1"] * 4 + ["2"] * 2
    source.put_many(before)
    with mirror(source, target, **options) as running:
        assert running.flush(LONG)
    assert values(target) == before


@pytest.mark.parametrize("kind", ["git", "sqlite"])
def test_very_many_writes_of_a_killed_mirror_are_its_own_though_the_source_took_all_back(
    kinds, kind, tmp_path, monkeypatch
):
    monkeypatch.setattr(ledger, "MOST_WRITTEN", 2)
    source, target, options = kinds.open(kind), kinds.open("file"), {"place": tmp_path / "place"}
    before = {f"{n}.txt": "1" for n in range(6)}
    source.put_many(before)
    with mirror(source, target, **options) as running:
        assert running.flush(LONG)
        # What it had kept before is as it would be, were it killed now.
        doomed(running)
        source.put_many(dict.fromkeys(before, "2"))
        assert running.flush(LONG)
    source.put_many(before)
    with mirror(source, target, **options) as running:
        assert running.flush(LONG)
    assert values(target) == before


def test_what_others_wrote_after_very_many_writes_is_theirs(kinds, tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "MOST_WRITTEN", 2)
    source, target, options = (
        kinds.open("sqlite"),
        kinds.open("file"),
        {"place": tmp_path / "place"},
    )
    source.put_many({f"{n}.txt": "1" for n in range(6)})
    with mirror(source, target, **options) as running:
        assert running.flush(LONG)
        doomed(running)
        source.put_many({f"{n}.txt": "2" for n in range(5)})
        assert running.flush(LONG)
    target["5.txt"] = "theirs"
    with mirror(source, target, **options) as running:
        with pytest.raises(DatastreamError, match="others wrote"):
            running.flush(LONG)
    assert target["5.txt"] == "theirs"


def test_very_many_writes_into_a_store_that_lags_are_named_until_they_are_shown(
    kinds, source, tmp_path, monkeypatch
):
    monkeypatch.setattr(ledger, "MOST_WRITTEN", 2)
    target, place = kinds.open("grpc"), tmp_path / "place"
    source.put_many({f"{n}.txt": "1" for n in range(6)})
    stopped(source, target, place=place)
    assert json.loads(place.read_text())["target_cursor"]


def test_what_a_killed_mirror_judged_is_its_own_beside_very_many_writes(
    kinds, target, tmp_path, monkeypatch
):
    monkeypatch.setattr(ledger, "MOST_WRITTEN", 2)
    source, options = kinds.open("git"), {"place": tmp_path / "place"}
    stopped(source, target, **options)
    target._source.forgets = False
    with doomed(mirror(source, target, **options)) as running:
        source["a.txt"] = "1"
        assert running.flush(LONG)
    # Came and went, as git sees it: it is judged, and then all else is written.
    del source["a.txt"]
    source.put_many({f"{n}.txt": "1" for n in range(3)})
    with doomed(mirror(source, target, **options)) as running:
        assert running.flush(LONG)
    source["a.txt"] = "2"
    with mirror(source, target, **options) as running:
        assert running.flush(LONG)
    assert values(target) == dict(source)
