"""Mirrors between real stores."""

import asyncio

import pytest

import datastream
from datastream import DatastreamError, ReadOnly, State, mirror
from tests.integration.mirror.tools import values

LONG = 30


@pytest.fixture
def source(tmp_path):
    with datastream.open(f"sqlite:{tmp_path}/source.db", create=True) as store:
        yield store


@pytest.fixture
def target():
    with datastream.open("memory:") as store:
        yield store


def same(a, b):
    return list(datastream.diff(a, b)) == []


def test_a_target_becomes_like_its_source_and_stays_so(source, target):
    source.put_many({"a": 1, "b/c": "x", "d": b"\0"})
    with mirror(source, target) as running:
        assert running.ready(LONG)
        assert same(source, target)
        source["a"] = 2
        del source["b/c"]
        assert running.flush(LONG)
        assert same(source, target)
        assert running.counts[:2] == (4, 1)
        assert running.lag == 0.0
    assert running.status.current.state is State.CLOSED


def test_it_can_be_awaited(source, target):
    async def run():
        source["a"] = 1
        async with mirror(source, target) as running:
            assert await running.aready(LONG)
            source["a"] = 2
            assert await running.aflush(LONG)
            assert target["a"] == 2
        return running.status.current.state

    assert asyncio.run(run()) is State.CLOSED


def test_it_goes_on_from_where_it_was(source, target):
    source.put_many({f"k{n}": n for n in range(20)})
    with mirror(source, target) as running:
        assert running.ready(LONG)
    source["k7"] = "new"
    with mirror(source, target) as running:
        assert running.flush(LONG)
        assert running.counts.puts == 1
    assert same(source, target)


def test_a_dry_run_says_what_it_would_write(source, target):
    source["a"] = 1
    with mirror(source, target, dry_run=True) as running:
        assert running.ready(LONG)
        assert [(write.key, write.value) for write in running.planned] == [("a", b"1")]
    assert target.snapshot() == {}


def test_what_others_hold_in_the_target_is_not_overwritten(source, target):
    source["a"] = 1
    target["a"] = 2
    with mirror(source, target) as running:
        with pytest.raises(DatastreamError, match="others wrote"):
            running.ready(LONG)
        assert running.status.current.state is State.FAILED
        target["a"] = 1
        assert running.flush(LONG)
    target["a"] = 3
    with mirror(source, target, on_conflict="source") as running:
        assert running.flush(LONG)
    assert target["a"] == 1


def test_a_mirror_of_its_own_mirror_is_refused(source, target):
    with mirror(source, target) as running:
        # From the first write on, the target says whose mirror it is.
        assert running.ready(LONG)
        with pytest.raises(DatastreamError, match="go round"):
            mirror(target, source)
    with pytest.raises(DatastreamError, match="go round"):
        mirror(target, source)
    with pytest.raises(DatastreamError, match="into itself"):
        mirror(source, source)


def test_a_target_that_cannot_be_written_is_refused(source):
    with pytest.raises(ReadOnly, match="cannot be the target"):
        mirror(source, "env:NOTHING_SUCH_")


def test_a_mirror_of_layers_goes_on_after_a_restart(tmp_path):
    top, below = f"sqlite:{tmp_path}/top.db?create=true", f"file:{tmp_path}/below.json"
    target = f"sqlite:{tmp_path}/target.db?create=true"

    def mirrored(values_):
        with (
            datastream.overlay(top, below, optional=below, write=top) as source,
            datastream.open(target) as store,
        ):
            source.put_many(values_)
            with mirror(source, store) as running:
                assert running.flush(LONG)
            assert values(store) == values(source)

    mirrored({"a": 1, "b": 1})
    mirrored({"a": 2})
    (tmp_path / "below.json").write_text('{"c": 3}')
    mirrored({"b": 3})
    with datastream.open(target) as store:
        assert values(store) == {"a": 2, "b": 3, "c": 3}
        assert len(store) == 4  # with one place
