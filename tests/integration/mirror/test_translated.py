"""Between stores that spell keys and values otherwise."""

import json
import threading
from urllib.parse import quote, unquote

import pytest

import datastream
from datastream import DatastreamError, Entry, InvalidKey, InvalidValue, diff, drift, mirror
from tests.integration.mirror.tools import values

LONG = 30


@pytest.fixture
def a(stack):
    return stack.enter_context(datastream.open("memory:"))


@pytest.fixture
def b(stack):
    return stack.enter_context(datastream.open("memory:"))


@pytest.fixture
def in_words_of(stack):
    return lambda store, **words: stack.enter_context(datastream.translated(store, **words))


def test_a_prefix_stands_for_another_one_and_what_is_beside_stays(a, b, in_words_of):
    a.put_many({"app/x": 1, "app/y/z": 2, "other": 3})
    b["beside"] = 4
    there = in_words_of(b, prefix=("app/", "settings/"))
    with mirror(a, there, "app/") as running:
        assert running.flush(LONG)
        assert values(b) == {"beside": 4, "settings/x": 1, "settings/y/z": 2}
        del a["app/x"]
        a["app/y/z"] = 5
        assert running.flush(LONG)
        assert values(b) == {"beside": 4, "settings/y/z": 5}
        assert running.refused == {}
    # A later one goes on from there.
    a["app/x"] = 6
    with mirror(a, there, "app/") as running:
        assert running.flush(LONG)
        assert running.counts.puts == 1
    assert values(b) == {"beside": 4, "settings/x": 6, "settings/y/z": 5}


@pytest.mark.parametrize("prefix", [("", "backup/"), ("app/", "")])
def test_a_prefix_may_be_empty_on_one_side(a, b, prefix, in_words_of):
    here, there = prefix
    a[f"{here}x"] = 1
    with mirror(a, in_words_of(b, prefix=prefix), *filter(None, [here])) as running:
        assert running.flush(LONG)
    assert values(b) == {f"{there}x": 1}


def test_keys_that_would_become_one_are_told_and_left_out(a, b, in_words_of):
    a.put_many({"a b": 1, "a_b": 2})
    there = in_words_of(
        b, key=lambda key: key.replace(" ", "_"), key_back=lambda key: key.replace("_", " ")
    )
    with mirror(a, there) as running:
        assert running.flush(LONG)
        assert set(running.refused) == {"a_b"}
        assert "which is 'a b' here" in running.status.current.degraded
    assert values(b) == {"a_b": 1}


def test_a_key_without_a_place_is_told(a, b, in_words_of):
    def upper(key):
        if not key.islower():
            raise ValueError("only lower case")
        return key.upper()

    a.put_many({"ok": 1, "Not": 2})
    with mirror(a, in_words_of(b, key=upper, key_back=str.lower)) as running:
        assert running.flush(LONG)
        assert running.refused == {"Not": "'Not' has no place there: only lower case"}
        assert [d.key for d in diff(a, in_words_of(b, key=upper, key_back=str.lower))] == ["Not"]
    assert values(b) == {"OK": 1}


def envelope(entry):
    text = json.dumps({"type": entry.value_type, "value": entry.value.decode()})
    return entry._replace(value=text.encode(), value_type="json")


def opened(entry):
    found = json.loads(entry.value)
    if not isinstance(found, dict) or found.keys() != {"type", "value"}:
        raise ValueError("no envelope")
    return entry._replace(value=found["value"].encode(), value_type=found["type"])


def test_values_of_types_that_the_target_cannot_tell(a, kinds, in_words_of):
    files = kinds.open("file")
    there = in_words_of(
        files,
        key=lambda key: f"{key}.json",
        key_back=lambda key: key.removesuffix(".json"),
        value=envelope,
        value_back=opened,
    )
    a.put_many({"port": "8080", "n": 20})
    a["latin"] = b"\xff"
    with mirror(a, there) as running:
        assert running.flush(LONG)
        assert set(running.refused) == {"latin"}
        assert files["port.json"] == {"type": "str", "value": "8080"}
        assert there["port"] == "8080"
        assert [d.key for d in diff(a, there)] == ["latin"]
        del a["latin"]
        # What others put there in other words is neither overwritten nor taken for a value.
        files.put("n.json", {"mine": 1})
        a["n"] = 21
        with pytest.raises(DatastreamError, match="'n'"):
            running.flush(LONG)
        assert files["n.json"] == {"mine": 1}
        files.put("n.json", {"type": "int", "value": "21"})
        assert running.flush(LONG)
    assert values(there) == dict(a)


def test_a_value_that_would_read_back_otherwise_is_refused(b, in_words_of):
    there = in_words_of(
        b,
        value=lambda entry: entry._replace(value=entry.value.strip()),
        value_back=lambda entry: entry,
    )
    there["a"] = "x"
    with pytest.raises(InvalidValue, match="read back"):
        there["a"] = " x"
    assert b["a"] == "x"


def test_a_key_there_that_is_not_spelled_as_here_is_not_there(b, in_words_of):
    b.put_many({"a%2fb": 1, "a%2Fb": 2})
    there = in_words_of(b, key=lambda key: quote(key, safe=""), key_back=lambda key: unquote(key))
    assert dict(there) == {"a/b": 2}
    with pytest.raises(InvalidKey):
        there["a" * 20_000] = 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"key": str.upper},
        {"value_back": lambda entry: entry},
        {"prefix": ("a", "b/")},
        {"prefix": ("a/", "b/"), "key": str.upper, "key_back": str.lower},
        {"prefix": ("", "")},
    ],
)
def test_half_a_translation_is_refused(b, wrong, in_words_of):
    with pytest.raises(DatastreamError):
        in_words_of(b, **wrong)


def test_the_words_of_a_conflict_are_those_of_the_source(a, b, in_words_of):
    asked = []

    def decide(conflict):
        asked.append(conflict.key)
        return Entry(conflict.key, b"9", "int")

    a["app/x"] = 1
    b["settings/x"] = 2
    there = in_words_of(b, prefix=("app/", "settings/"))
    with mirror(a, there, "app/", on_conflict=decide) as running:
        assert running.flush(LONG)
    assert set(asked) == {"app/x"}
    assert values(b) == {"settings/x": 9}


def test_two_mirrors_in_other_words_share_a_target_and_circles_are_refused(a, b, in_words_of):
    a["app/x"] = 1
    one, other = (in_words_of(b, prefix=("app/", to)) for to in ("one/", "two/"))
    with mirror(a, one, "app/") as first, mirror(a, other, "app/") as second:
        assert first.flush(LONG)
        assert second.flush(LONG)
        assert values(b) == {"one/x": 1, "two/x": 1}
        with pytest.raises(DatastreamError, match="go round"):
            mirror(b, in_words_of(a, prefix=("one/", "app/")), "one/")
    with pytest.raises(DatastreamError, match="into itself"):
        mirror(a, in_words_of(a, prefix=("app/", "copy/")), "app/")


def test_drift_in_other_words(a, b, in_words_of):
    seen, empty = [], threading.Event()

    def look(found):
        seen.append(dict(found))
        if not found:
            empty.set()

    a["app/x"] = 1
    there = in_words_of(b, prefix=("app/", "settings/"))
    with drift(a, there, "app/").subscribe(look):
        b["settings/x"] = 1
        assert empty.wait(LONG)
    assert list(seen[0]) == ["app/x"]


@pytest.mark.usefixtures("nats_server")
@pytest.mark.parametrize("kind", ["sqlite", "git", "file", "postgres", "nats", "grpc"])
def test_into_other_kinds_and_on_after_a_restart(a, kinds, kind, in_words_of):
    target = kinds.open(kind)
    there = in_words_of(target, prefix=("app/", "kept/"))
    a.put_many({f"app/k{n}.json": n for n in range(5)})
    with mirror(a, there, "app/") as running:
        assert running.flush(LONG)
        del a["app/k0.json"]
        a["app/k1.json"] = 10
        assert running.flush(LONG)
    a["app/k2.json"] = 20
    with mirror(a, there, "app/") as running:
        assert running.flush(LONG)
    wanted = {f"kept/k{n}.json": v for n, v in ((1, 10), (2, 20), (3, 3), (4, 4))}
    assert {k: e.decode() for k, e in target.snapshot("kept/").items()} == wanted
