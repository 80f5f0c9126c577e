"""What a mirror refuses, reports, waits for and survives."""

import os
import sqlite3
import threading
from contextlib import closing

import pytest

import datastream
from datastream import (
    DatastreamError,
    Entry,
    InvalidValue,
    SourceUnavailable,
    State,
    Store,
    StoreClosed,
    Write,
    mirror,
)
from datastream._mirror import worker
from datastream._mirror.feeds import Feeds
from datastream.entry import deleted
from datastream.selection import Selection, is_reserved
from datastream.sources.memory import MemorySource
from datastream.testing import Spy
from tests.integration._programs.tools import eventually
from tests.integration.mirror.tools import values

LONG = 30


class Slow(MemorySource):
    """Memory whose writes wait for a gate, or fail."""

    instant = False

    def __init__(self):
        super().__init__()
        self.go = threading.Event()
        self.go.set()
        self.failure = None
        self.writes = 0

    def write(self, writes):
        assert self.go.wait(LONG)
        if self.failure is not None:
            raise self.failure
        self.writes += 1
        return super().write(writes)


@pytest.fixture
def slow():
    return Slow()


@pytest.fixture
def target(stack, slow):
    return stack.enter_context(Store(slow, name="target"))


def state_of(running):
    return running.status.current.state


# Deletes.


def test_an_empty_source_never_empties_the_target(source, target, tmp_path):
    source.put_many({"a": 1, "b": 2})
    with mirror(source, target) as running:
        assert running.flush(LONG)
    with datastream.open("memory:") as empty:
        begun = mirror(Store(empty._source, name=source.name), target, on_conflict="source")
        with begun as running:
            with pytest.raises(DatastreamError, match="source is empty"):
                running.ready(LONG)
            assert values(target) == {"a": 1, "b": 2}
            empty.put_many({"a": 1, "b": 3})
            assert running.flush(LONG)
            assert values(target) == {"a": 1, "b": 3}


def test_a_source_that_is_emptied_at_once_does_not_empty_the_target(target, tmp_path):
    """Such as a directory that is not mounted any more, which a second look does not tell."""
    conf, away = tmp_path / "data" / "conf", tmp_path / "away"
    with datastream.open(f"file:{tmp_path}/data", create=True) as source:
        source.put_many({"conf/a": 1, "conf/b": 2})
        with mirror(source, target) as running:
            assert running.flush(LONG)
            conf.rename(away)
            eventually(
                lambda: "source is empty" in str(running.status.current.error), "it is refused"
            )
            assert values(target) == {"conf/a": 1, "conf/b": 2}
            away.rename(conf)
            eventually(lambda: state_of(running) is State.READY, "all is back")
            source.put("conf/a", 3)
            assert running.flush(LONG)
            assert values(target) == {"conf/a": 3, "conf/b": 2}
            # One by one, they may well go.
            for key in ("conf/a", "conf/b"):
                source.delete(key)
                assert running.flush(LONG)
            assert values(target) == {}


def ended_at_once(running):
    """End it as the end of its process does: nothing more is kept."""
    running._worker._end = running._worker._feeds.leave
    running.close()


def test_what_others_write_before_a_killed_mirror_followed_the_target_is_theirs(
    source, target, monkeypatch
):
    """It has compared, and kept that the target is its own."""
    source.put_many({"a": 1, "b": 1})
    has_compared = threading.Event()

    def follow_target(_):
        has_compared.set()
        raise SourceUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(Feeds, "follow_target", follow_target)
        running = mirror(source, target)
        assert has_compared.wait(LONG)
        ended_at_once(running)
    target.put("theirs", 1)
    target.put("a", 2)
    source.put("b", 2)
    with mirror(source, target) as running:
        with pytest.raises(DatastreamError, match="others wrote"):
            running.ready(LONG)
        assert values(target)["theirs"] == 1
    with mirror(source, target, on_conflict="target") as running:
        assert running.flush(LONG)
        assert values(target)["theirs"] == 1
        assert values(target)["b"] == 2


def test_what_others_wrote_is_theirs_though_the_source_forgot_its_cursors(target, tmp_path):
    file = tmp_path / "source.db"

    def begun(**options):
        return mirror(f"sqlite:{file}?create=true", target, **options)

    def written(values):
        file.unlink(missing_ok=True)
        with datastream.open(f"sqlite:{file}?create=true") as source:
            source.put_many(values)

    written({"a": 1, "b": 1})
    with begun() as running:
        assert running.flush(LONG)
    target.put("theirs", 1)
    written({"a": 1, "b": 2})
    with begun() as running:
        with pytest.raises(DatastreamError, match="'theirs', which others wrote"):
            running.ready(LONG)
    assert values(target) == {"a": 1, "b": 1, "theirs": 1}
    with begun(on_conflict="target") as running:
        assert running.flush(LONG)
    assert values(target) == {"a": 1, "b": 2, "theirs": 1}


def test_too_many_deletes_at_once_wait_for_a_decision(source, target):
    source.put_many({f"k{n}": n for n in range(40)})
    with mirror(source, target) as running:
        assert running.flush(LONG)
        source.write(*(datastream.Write(f"k{n}", None) for n in range(30)))
        with pytest.raises(DatastreamError, match="30 of the 40 keys of target"):
            running.flush(LONG)
        assert len(values(target)) == 40
        # Most are back: it goes on by itself.
        source.put_many({f"k{n}": n for n in range(25)})
        assert running.flush(LONG)
        assert values(target) == dict(source)
    with mirror(source, target, delete_limit=1.0) as running:
        source.write(*(datastream.Write(key, None) for key in dict(source)))
        assert running.flush(LONG)
        assert values(target) == {}


def test_without_deletes_the_target_keeps_what_the_source_has_not(source, target):
    source["a"] = target["other"] = 1
    with mirror(source, target, delete=False) as running:
        assert running.flush(LONG)
        del source["a"]
        target["more"] = 2
        assert running.flush(LONG)
    assert values(target) == {"a": 1, "other": 1, "more": 2}


# Others who write.


@pytest.mark.parametrize("restart", [False, True])
def test_what_others_write_is_told_also_after_a_restart(source, target, restart):
    source["a"] = 1
    running = mirror(source, target)
    assert running.flush(LONG)
    target["a"] = 2
    with pytest.raises(DatastreamError, match="others wrote"):
        running.flush(LONG)
    if restart:
        running.close()
        source["b"] = 1
        running = mirror(source, target)
    with pytest.raises(DatastreamError, match="'a', which others wrote"):
        running.flush(LONG)
    assert target["a"] == 2
    target["a"] = 1
    assert running.flush(LONG)
    running.close()


def test_a_conflict_that_is_settled_stays_so_after_a_crash(source, target):
    running = mirror(source, target)
    assert running.flush(LONG)
    target["a"] = 1
    with pytest.raises(DatastreamError, match="others wrote"):
        running.flush(LONG)
    del target["a"]
    assert running.flush(LONG)
    # As if it was killed: it saves nothing any more.
    running._worker.ledger.save = lambda: None
    running.close()
    source["a"] = 2
    with mirror(source, target) as running:
        assert running.flush(LONG)
        assert values(target) == {"a": 2}


def test_what_is_left_to_others_stays_so_after_a_crash(source, target):
    running = mirror(source, target, on_conflict="target")
    assert running.flush(LONG)
    target["a"] = "theirs"
    assert running.flush(LONG)
    running._worker.ledger.save = lambda: None
    running.close()
    del target["a"]
    source["a"] = 1
    with mirror(source, target, on_conflict="target") as running:
        assert running.flush(LONG)
        assert values(target) == {}


def test_the_source_wins(source, target):
    source.put_many({"a": 1, "b": 1})
    with mirror(source, target, on_conflict="source") as running:
        assert running.flush(LONG)
        target["a"] = 2
        del target["b"]
        target["c"] = 3
        assert running.flush(LONG)
        assert values(target) == {"a": 1, "b": 1}


def test_the_target_wins_and_keeps_what_others_wrote(source, target):
    source.put_many({"a": 1, "b": 1})
    with mirror(source, target, on_conflict="target") as running:
        assert running.flush(LONG)
        target["a"] = "theirs"
        assert running.flush(LONG)
        source.put_many({"a": 2, "b": 2})
        assert running.flush(LONG)
        assert values(target) == {"a": "theirs", "b": 2}
        assert running.counts.conflicts == 1
    with mirror(source, target, on_conflict="target") as running:
        source["a"] = 3
        assert running.flush(LONG)
        assert values(target) == {"a": "theirs", "b": 2}


def test_a_callable_decides(source, target):
    def longer(conflict):
        if conflict.source is None or conflict.target is None:
            return "source"
        both = conflict.source.value + conflict.target.value
        return Entry(conflict.key, both, "str")

    source["a"] = "x"
    with mirror(source, target, on_conflict=longer) as running:
        assert running.flush(LONG)
        target["a"] = "y"
        assert running.flush(LONG)
        assert target["a"] == "xy"


class Small(MemorySource):
    """Memory with room for so many bytes."""

    instant = False
    room = 10

    def write(self, writes):
        held = {entry.key: entry.value for entry in self.read(Selection(), None).entries}
        held |= {write.key: write.value or b"" for write in writes}
        if sum(len(value) for key, value in held.items() if not is_reserved(key)) > self.room:
            raise SourceUnavailable("the disk is full")
        return super().write(writes)


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_what_makes_room_later_is_not_kept_behind_what_has_none(kinds, stack, kind):
    source, target = kinds.open(kind), stack.enter_context(Store(Small()))
    many = {f"{n}.txt": "12345" for n in range(20)}
    with mirror(source, target) as running:
        source["a.txt"] = "12345"
        assert running.flush(LONG)
        source.put_many(many)
        eventually(lambda: running.status.current.state is State.STALE, "it is full")
        # More than the target holds, and might lose.
        source.write(*(Write(key, None) for key in list(many)[1:]))
        assert running.flush(LONG)
        assert values(target) == values(source)


def test_a_place_on_a_full_disk_is_waited_for(source, target, tmp_path, monkeypatch):
    def full(fd):
        raise OSError(28, "No space left on device")

    with mirror(source, target, place=tmp_path / "place") as running:
        assert running.flush(LONG)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            source["a"] = 1
            eventually(lambda: running.status.current.state is State.STALE, "it is full")
            assert "No space left" in str(running.status.current.error)
        running.refresh()
        assert running.flush(LONG)
        assert values(target) == {"a": 1}


def test_a_store_that_can_be_read_is_not_written_again_and_again(source, monkeypatch):
    monkeypatch.setattr(worker, "uniform", lambda *_: LONG)
    slow = Slow()
    slow.failure = SourceUnavailable("the disk is full")
    with Store(slow) as target, mirror(source, target, place=None) as running:
        attempts = []
        real = slow.write
        slow.write = lambda writes: attempts.append(writes) or real(writes)
        source["a"] = 1
        eventually(lambda: running.status.current.state is State.STALE, "it is full")
        for _ in range(50):
            target._status.failed(slow.failure)
            target._status.succeeded(target._source.health)
            threading.Event().wait(0.002)
        assert len(attempts) <= 2
        slow.failure = None
        running.refresh()
        assert running.ready(LONG)


def test_what_a_callable_gives_at_first_is_there_when_the_mirror_is_ready(source, target):
    asked = []

    def neither(conflict):
        asked.append(conflict.key)
        return deleted("a") if conflict.key == "a" else Entry("b", b"ours", "str")

    source.put_many({"a": "x", "b": "x"})
    target.put_many({"a": "y", "b": "y"})
    with mirror(source, target, on_conflict=neither) as running:
        assert running.ready(LONG)
        assert values(target) == {"b": "ours"}
        assert running.flush(LONG)
        assert sorted(asked) == ["a", "b"]
    with mirror(source, target, on_conflict=neither) as running:
        assert running.flush(LONG)
        assert values(target) == {"b": "ours"}


def test_a_mirror_that_was_closed_has_nothing_to_wait_for(source, target):
    running = mirror(source, target)
    running.close()
    with pytest.raises(StoreClosed, match="start another"):
        running.flush()
    with pytest.raises(StoreClosed, match="start another"):
        running.ready()
    with mirror(source, target) as running:
        assert running.ready(LONG)
        source.close()
        with pytest.raises(StoreClosed):
            running.flush()


@pytest.mark.parametrize(
    "wrong",
    [
        {"on_conflict": "me"},
        {"delete_limit": -1},
        {"delete_limit": 1.5},
        {"delete_limit": True},
    ],
)
def test_nonsense_is_refused(source, target, wrong):
    with pytest.raises(InvalidValue):
        mirror(source, target, **wrong)


def test_opposite_mirrors_of_other_keys_are_allowed(source, target):
    source["x/a"], target["y/b"] = 1, 2
    with mirror(source, target, "x/") as one, mirror(target, source, "y/") as other:
        assert one.flush(LONG)
        assert other.flush(LONG)
    assert values(source) == values(target) == {"x/a": 1, "y/b": 2}


def test_opposite_mirrors_of_what_one_leaves_out_are_allowed(source, target):
    source["x/a"], target["y/b"] = 1, 2
    one = mirror(source, target, exclude="y/**")
    with one, mirror(target, source, "y/") as other:
        assert one.flush(LONG)
        assert other.flush(LONG)
    assert values(source) == values(target) == {"x/a": 1, "y/b": 2}


def test_a_circle_of_three_is_refused_after_they_ran(source, target, stack):
    third = stack.enter_context(datastream.open("memory:"))
    with mirror(source, target) as running:
        assert running.flush(LONG)
    with mirror(target, third) as running:
        assert running.flush(LONG)
    with pytest.raises(DatastreamError, match="go round"):
        mirror(third, source)


def test_the_place_of_another_mirror_is_not_taken(source, target, stack, tmp_path):
    third = stack.enter_context(datastream.open("memory:"))
    with mirror(source, target, place=tmp_path / "place") as running:
        assert running.flush(LONG)
    with mirror(source, third, place=tmp_path / "place") as running:
        with pytest.raises(DatastreamError, match="the place is that of a mirror"):
            running.ready(LONG)


# What the target cannot hold.


def test_what_cannot_be_held_is_named_and_the_rest_is_written(source, kinds):
    target = kinds.open("file")
    source.put_many({"a/b": "below", "ok.txt": "fine", "number": "20", "x": "y"})
    with mirror(source, target, on_conflict="source") as running:
        assert running.flush(LONG)
        assert set(running.refused) == {"number"}
        assert "read back as int" in running.refused["number"]
        assert "1 keys cannot be held" in running.status.current.degraded
        source["a"] = "in the way"
        assert running.flush(LONG)
        assert set(running.refused) == {"number", "a"}
        # Once there is room, it is written.
        del source["a/b"]
        assert running.flush(LONG)
        assert set(running.refused) == {"number"}
        source["number"] = "twenty"
        assert running.flush(LONG)
        assert running.refused == {}
        assert running.status.current.degraded == ""
    assert values(target) == {
        "a": "in the way",
        "ok.txt": "fine",
        "number": "twenty",
        "x": "y",
    }


# A target, or a source, in trouble.


def test_a_target_that_is_away_gets_everything_later(source, target, slow):
    with mirror(source, target) as running:
        assert running.flush(LONG)
        slow.failure = SourceUnavailable("the disk is full")
        source["a"] = 1
        eventually(lambda: state_of(running) is State.STALE, "it says so")
        assert "disk is full" in str(running.status.current.error)
        assert running.lag > 0
        source["a"] = 2
        source["b"] = 1
        slow.failure = None
        running.refresh()
        assert running.flush(LONG)
        assert state_of(running) is State.READY
        assert values(target) == {"a": 2, "b": 1}


def test_what_others_delete_while_the_first_mirror_ends_is_seen(source, stack):
    class Failing(MemorySource):
        """Memory that is away once it was written, until it is told otherwise."""

        instant = False
        is_away = False

        def read(self, selection, since):
            if self.is_away:
                raise SourceUnavailable("it is away")
            return super().read(selection, since)

        def write(self, writes):
            self.is_away = any(write.key == "a" for write in writes)
            return super().write(writes)

    failing = Failing("failing target")
    target = stack.enter_context(Store(failing, name="target"))
    others = stack.enter_context(datastream.open("memory:failing target"))
    source.put_many({"a": 1, "b": 2, "c": 3})
    running = mirror(source, target, on_conflict="source", place=None)
    with running:
        eventually(lambda: state_of(running) is State.STALE, "it is away")
        del others["b"]
        failing.is_away = False
        running.refresh()
        assert running.flush(LONG)
        assert values(others) == {"a": 1, "b": 2, "c": 3}


def test_a_slow_target_holds_up_nobody_and_gets_the_newest(source, target, slow):
    with mirror(source, target) as running:
        assert running.flush(LONG)
        slow.go.clear()
        for number in range(10_000):
            source["key"] = number
        slow.go.set()
        assert running.flush(LONG)
        assert target["key"] == 9_999
        # What waited beyond some thousand changes was conflated.
        assert slow.writes < 9_000


def test_a_source_that_is_away_changes_nothing(target, stack):
    spy = Spy(MemorySource())
    source = stack.enter_context(Store(spy, name="source"))
    source["a"] = 1
    with mirror(source, target) as running:
        assert running.flush(LONG)
        spy.failure = SourceUnavailable("it is away")
        source.refresh()
        eventually(lambda: state_of(running) is State.STALE, "it says so")
        assert "source" in str(running.status.current.error)
        assert values(target) == {"a": 1}
        spy.failure = None
        source["a"] = 2
        assert running.flush(LONG)
        assert values(target) == {"a": 2}


def test_a_store_that_is_closed_ends_its_mirror(source, target):
    with mirror(source, target) as running:
        assert running.flush(LONG)
        source.close()
        eventually(lambda: state_of(running) is State.CLOSED, "it ends")
        with pytest.raises(datastream.StoreClosed):
            running.ready(LONG)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_may_not_be_written_is_refused(source, tmp_path):
    (tmp_path / "d").mkdir(mode=0o500)
    with pytest.raises(datastream.ReadOnly):
        mirror(source, f"file:{tmp_path}/d")


def test_what_was_committed_together_is_written_together(source, target, slow):
    with mirror(source, target, place=None) as running:
        assert running.flush(LONG)
        before, seen = slow.writes, []
        target.watch_batches(initial=False).subscribe(seen.append)
        source.put_many({f"k{n}": n for n in range(50)})
        source.put_many({f"l{n}": n for n in range(50)})
        assert running.flush(LONG)
        target.flush(LONG)
    sizes = [sum(not entry.key.startswith("_") for entry in batch) for batch in seen]
    assert [size for size in sizes if size] == [50, 50]
    assert slow.writes >= before + 2


@pytest.mark.parametrize("columns", ["tenant TEXT, id INTEGER", "tenant TEXT, id TEXT"])
def test_rows_take_a_mirror_whose_place_is_a_file(source, tmp_path, stack, columns):
    path = tmp_path / "rows.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"CREATE TABLE rows ({columns}, n, PRIMARY KEY (tenant, id))")
    source["acme/7"] = {"n": 5}
    url = f"sqlite:{path}?table=rows&key=tenant,id&value=*"
    with mirror(source, url) as running, pytest.raises(DatastreamError, match="a file as place="):
        running.ready(LONG)
    with mirror(source, url, place=tmp_path / "place") as running:
        assert running.ready(LONG)
    with datastream.open(url) as rows:
        assert dict(rows) == {"acme/7": {"n": 5}}
