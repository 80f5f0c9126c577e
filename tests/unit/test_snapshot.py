"""`Snapshot` is to its readers what a dict of its entries would be."""

import copy
import pickle

import pytest

import datastream
from datastream import Entry, Snapshot
from datastream._columns import EntryColumns

ENTRIES = (Entry("b", b"2", "int", None, "r2"), Entry("a", b"1", "int", None, "r1"))
DICT = {entry.key: entry for entry in ENTRIES}


@pytest.fixture(params=[tuple, EntryColumns.of])
def snapshot(request):
    return Snapshot(request.param(ENTRIES))


def test_it_reads_like_a_dict(snapshot):
    assert snapshot["a"] == ENTRIES[1]
    assert snapshot.get("none") is None
    assert "a" in snapshot
    assert "none" not in snapshot
    assert [] not in [*snapshot]
    assert len(snapshot) == 2
    assert list(snapshot) == ["b", "a"]
    assert list(snapshot.keys()) == ["b", "a"]
    assert list(snapshot.values()) == list(ENTRIES)
    assert list(snapshot.items()) == list(DICT.items())
    assert ENTRIES[0] in snapshot.values()
    assert ("a", ENTRIES[1]) in snapshot.items()
    assert snapshot.keys() - {"a"} == {"b"}
    with pytest.raises(KeyError, match="none"):
        snapshot["none"]


def test_it_is_equal_to_a_dict_and_looks_like_one(snapshot):
    assert snapshot == DICT
    assert DICT == snapshot  # noqa: SIM300
    assert snapshot == Snapshot(ENTRIES)
    assert snapshot != {}
    assert snapshot != "ba"
    assert repr(snapshot) == repr(DICT)
    with pytest.raises(TypeError):
        hash(snapshot)


def test_dicts_are_made_of_it(snapshot):
    for made in (dict(snapshot), {**snapshot}, snapshot.copy(), snapshot | {}, {} | snapshot):
        assert type(made) is dict
        assert list(made.items()) == list(DICT.items())
    other = Entry("a", b"3", "int", None, "r3")
    assert (snapshot | {"a": other})["a"] == other
    assert ({"a": other} | snapshot)["a"] == ENTRIES[1]
    assert snapshot | snapshot == DICT
    with pytest.raises(TypeError):
        snapshot | [other]
    with pytest.raises(TypeError):
        [other] | snapshot


def test_it_never_changes(snapshot):
    with pytest.raises(TypeError):
        snapshot["c"] = ENTRIES[0]
    with pytest.raises(TypeError):
        del snapshot["a"]


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))]
)
def test_it_is_copied_and_sent_to_other_processes(snapshot, copied):
    made = copied(snapshot)
    assert type(made) is Snapshot
    assert made == snapshot == DICT


@pytest.mark.parametrize("made", [tuple, EntryColumns.of])
def test_of_a_key_that_comes_twice_the_last_one_holds(made):
    later = Entry("b", b"3", "int", None, "r3")
    snapshot = Snapshot(made([*ENTRIES, later]))
    assert len(snapshot) == 2
    assert list(snapshot.items()) == [("b", later), ("a", ENTRIES[1])]
    assert snapshot["b"] == later


@pytest.mark.parametrize("url", ["memory:", "sqlite:{}/s.db"])
def test_stores_give_one(url, tmp_path):
    with datastream.open(url.format(tmp_path)) as store:
        assert store.snapshot() == {}
        store.put_many({"a": 1, "b/c": 2})
        snapshot = store.snapshot()
        store.put("a", 3)
        assert type(snapshot) is Snapshot
        assert {key: entry.decode() for key, entry in snapshot.items()} == {"a": 1, "b/c": 2}
        assert store.snapshot("b/") == {"b/c": store.entry("b/c")}
