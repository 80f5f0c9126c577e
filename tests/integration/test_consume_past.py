"""Consumers of backends that keep the past: nothing in between is left out."""

import pytest
from dulwich.repo import Repo

import datastream
from datastream import Operation


def _pairs(entries):
    return [(e.key, None if e.operation is Operation.DELETE else e.decode()) for e in entries]


@pytest.fixture
def repository(tmp_path):
    for name in ("repository", "other"):
        Repo.init(str(tmp_path / name), mkdir=True).close()
    return f"git:{tmp_path}/repository"


def test_each_commit_is_handled_also_those_made_meanwhile(repository, tmp_path):
    place, batches = tmp_path / "place", []
    with datastream.open(repository) as other:
        other["a"] = 0
        with datastream.open(repository) as store:
            with store.consume(batches.append, place=place, batch=True) as consumer:
                other.put("a", 1, message="one")
                store.put("a", 2, message="two")
                _handled(consumer, batches, 2)
        for value in (3, 4):
            other.put("a", value, message=str(value))
        other.put("brief", 1)
        del other["brief"]
        with datastream.open(repository) as store:
            with store.consume(batches.append, place=place, batch=True) as consumer:
                _handled(consumer, batches, 6)
    assert [_pairs(batch) for batch in batches] == [
        *([("a", value)] for value in (1, 2, 3, 4)),
        [("brief", 1)],
        [("brief", None)],
    ]
    assert [batch.message.strip() for batch in batches[:4]] == ["one", "two", "3", "4"]


def test_a_branch_that_was_not_born_yet(repository, tmp_path):
    seen = []
    with datastream.open(repository) as store:
        with store.consume(seen.append, place=tmp_path / "place") as consumer:
            assert consumer.flush(30)
        store["a"] = 1
        store["a"] = 2
        with store.consume(seen.append, place=tmp_path / "place") as consumer:
            _handled(consumer, seen, 2)
    assert _pairs(seen) == [("a", 1), ("a", 2)]


def test_what_differs_is_handled_where_commits_are_lost(repository, tmp_path):
    seen = []
    with datastream.open(repository) as store:
        store.update({"a": 1, "gone": 1})
        with store.consume(seen.append, place=tmp_path / "place", initial=True) as consumer:
            _handled(consumer, seen, 2)
    seen.clear()
    with datastream.open(f"git:{tmp_path}/other") as store:
        store.update({"a": 1, "b": 1})
        with store.consume(seen.append, place=tmp_path / "place", moved=True) as consumer:
            _handled(consumer, seen, 2)
            store["a"] = 2
            _handled(consumer, seen, 3)
    assert sorted(_pairs(seen), key=str) == [("a", 2), ("b", 1), ("gone", None)]


def test_postgres_with_history_leaves_nothing_out(postgres, tmp_path):
    place, seen = tmp_path / "place", []
    url = f"{postgres}&history=true&create=true"
    with datastream.open(url) as other, datastream.open(url) as store:
        other.update({"a": 0, "gone": 0})
        with store.consume(seen.append, "a", "b", "gone", place=place) as consumer:
            other["a"] = 1
            store["a"] = 2
            _handled(consumer, seen, 2)
        other["a"] = 3
        other["a"] = 4
        other["b"] = 1
        other["b"] = 2
        other["gone"] = 1
        del other["gone"]
        with store.consume(seen.append, "a", "b", "gone", place=place) as consumer:
            _handled(consumer, seen, 8)
            other["b"] = 3
            del other["b"]
            other["b"] = 4
            _handled(consumer, seen, 11)
            assert consumer.flush(30)
    pairs = _pairs(seen)
    for key, values in {"a": [1, 2, 3, 4], "b": [1, 2, 3, None, 4], "gone": [1, None]}.items():
        assert [value for k, value in pairs if k == key] == values


def _handled(consumer, seen, number):
    """Wait until that many were handled; the store learns of others' writes by itself."""
    from datastream.testing._tools import eventually

    eventually(lambda: len(seen) >= number, f"{number} handled, not {len(seen)}")
    assert consumer.flush(30)
