"""The dict that a store is: of one moment, atomic, and not spoiled by one bad value."""

import logging
import sys
import threading

import pytest

import datastream
from datastream import InvalidValue, KeyNotFound
from tests.integration._core_sources import together


@pytest.fixture
def stores(tmp_path):
    """Four stores on one file."""
    stores = [datastream.open(f"sqlite:{tmp_path / 'x.db'}") for _ in range(4)]
    yield stores
    for store in stores:
        store.close()


def race(stores, function):
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        return together(
            *[lambda n=n, store=store: function(store, n) for n, store in enumerate(stores)]
        )
    finally:
        sys.setswitchinterval(before)


@pytest.mark.parametrize(
    "rounds",
    [30, pytest.param(1_000, marks=[pytest.mark.chaos, pytest.mark.timeout(600)])],
)
def test_setdefault_returns_what_is_stored(stores, rounds):
    for number in range(rounds):
        key = f"k{number}"
        results = race(stores, lambda store, n, key=key: store.setdefault(key, n))
        assert results == [stores[0][key]] * 4


@pytest.mark.parametrize(
    "rounds",
    [30, pytest.param(1_000, marks=[pytest.mark.chaos, pytest.mark.timeout(600)])],
)
def test_pop_gives_an_item_to_one(stores, rounds):
    for _ in range(rounds):
        stores[0]["p"] = 1
        results = race(stores, lambda store, n: store.pop("p", None))
        assert sorted(results, key=repr) == [1, None, None, None]
        assert "p" not in stores[1]


def test_pop_without_default_raises_for_the_others(stores):
    stores[0]["p"] = 1
    results = race(stores, lambda store, n: store.pop("p"))
    assert results.count(1) == 1
    assert sum(isinstance(result, KeyNotFound) for result in results) == 3


def test_popitem_gives_each_item_once(stores):
    stores[0].put_many({f"k{n}": n for n in range(8)})
    results = race(stores, lambda store, n: [store.popitem(), store.popitem()])
    items = [item for result in results for item in result]
    assert sorted(items) == [(f"k{n}", n) for n in range(8)]
    with pytest.raises(KeyNotFound):
        stores[0].popitem()


VIEWS = {
    "items": lambda store: iter(store.items()),
    "values": lambda store: ((None, value) for value in store.values()),
    "dict": lambda store: iter(dict(store).items()),
    "copy": lambda store: iter(store.copy().items()),
    "keys": lambda store: zip(store.keys(), iter(int, 1), strict=False),
    "iteration": lambda store: ((key, 0) for key in store),
}


@pytest.mark.parametrize("view", VIEWS)
def test_views_are_of_one_moment(stores, view):
    """Another store changes everything, then removes everything, while one iterates."""
    ours, theirs, *_ = stores
    theirs.put_many({f"k{n}": 0 for n in range(50)})
    seen = []
    for number, (key, value) in enumerate(VIEWS[view](ours)):
        if number == 10:
            theirs.put_many({f"k{n}": 1 for n in range(60)})
        if number == 20:
            theirs.clear()
        seen.append((key, value))
    assert {value for _, value in seen} == {0}
    assert len(seen) == 50


def test_dict_of_a_store_is_of_one_moment_while_others_write(stores):
    ours, theirs, *_ = stores
    stop = threading.Event()

    def write():
        number = 0
        while not stop.is_set():
            number += 1
            theirs.put_many({f"k{n}": number for n in range(10)})

    theirs.put_many({f"k{n}": 0 for n in range(10)})
    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(100):
            for made in (dict(ours), ours.copy(), dict(ours.items()), {**ours}, ours | {}):
                assert len(set(made.values())) == 1
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def spoiled():
    """Two values, one of which does not decode."""
    with datastream.open("memory:") as store:
        store["good"] = 1
        store.put("bad", b"{", value_type="json")
        yield store


def test_a_value_that_does_not_decode_fails_its_own_key_only(spoiled):
    assert spoiled["good"] == 1
    assert set(spoiled) == {"good", "bad"}
    assert len(spoiled) == 2
    assert "bad" in spoiled
    with pytest.raises(InvalidValue, match="bad"):
        spoiled["bad"]


def test_many_values_with_one_that_does_not_decode(spoiled, caplog):
    for many in (dict(spoiled), spoiled.copy(), dict(spoiled.items())):
        assert many == {"good": 1, "bad": b"{"}
    assert sorted(spoiled.values(), key=repr) == [1, b"{"]
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert warnings
    assert all("bad" in record.getMessage() for record in warnings)


def test_a_value_that_does_not_decode_is_not_popped(spoiled):
    with pytest.raises(InvalidValue):
        spoiled.pop("bad", None)
    assert spoiled.entry("bad").value == b"{"
    with pytest.raises(InvalidValue):
        spoiled.get("bad", "default")


def test_a_bad_file_spoils_no_other(tmp_path):
    (tmp_path / "good.json").write_text("1")
    (tmp_path / "bad.json").write_text("{")
    with datastream.open(f"file:{tmp_path}") as store:
        assert store["good.json"] == 1
        assert dict(store) == {"good.json": 1, "bad.json": b"{"}


def test_bool_costs_nothing_and_is_true():
    with datastream.open("memory:") as store:
        assert store
        store._source.capabilities = store._source.read = None
        assert store


LISTS = {
    "list": lambda store: list(store),
    "tuple": lambda store: tuple(store),
    "sorted": lambda store: sorted(store),
    "starred": lambda store: [*store],
    "set": lambda store: set(store),
    "len": lambda store: [None] * len(store),
    "list of keys": lambda store: list(store.keys()),
    "sorted keys": lambda store: sorted(store.keys()),
    "dict": lambda store: dict(store),
    "clear": lambda store: store.clear() or [None, None],
}


@pytest.mark.parametrize("kind", LISTS)
def test_the_keys_are_listed_once(kind, monkeypatch):
    """`list` asks for an iterator and for the length."""
    with datastream.open("memory:") as store:
        store.put_many({"a": 1, "b": 2})
        core, listed = store._core, []
        for name in ("capabilities", "read_keys"):
            real = getattr(core, name)
            monkeypatch.setattr(core, name, lambda *a, real=real: listed.append(1) or real(*a))
        for _ in range(3):
            before = len(listed)
            store.put_many({"a": 1, "b": 2})
            assert len(LISTS[kind](store)) == 2
            assert len(listed) == before + 1


def test_a_length_is_that_of_now():
    with datastream.open("memory:") as store:
        store.put_many({"a": 1, "b": 2})
        keys = store.keys()
        for mapping in (store, keys):
            iterator = iter(mapping)
            store["c"] = 3
            assert len(mapping) == 3
            del store["c"]
            assert [*iterator] == ["a", "b"]
            assert len(mapping) == 2
            assert [len(mapping) for _ in mapping if store.put("c", 3)] == [3, 3]
            del store["c"]
