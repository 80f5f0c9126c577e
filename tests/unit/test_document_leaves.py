"""Leaves of documents as keys, formats changed in place, and positions by what was seen."""

import json
from datetime import date

import pytest

from datastream import Batch, Entry, InvalidKey, InvalidValue, Selection, Write
from datastream._formats import Malformed, format_of, is_document
from datastream._overlay.recent import Recent
from datastream._overlay.table import Table
from datastream.sources._common.versions import Versions
from datastream.sources.document.leaves import entry_of, leaves, put, remove, value_of


def found(document):
    return {key: leaf.entry.decode() for key, leaf in leaves(document)[0].items()}


def test_leaves():
    document = {"a": {"b": 1, "c": [1, {"d": None}]}, 8080: {"e": True}, "f": None, "empty": {}}
    assert found(document) == {
        "a/b": 1,
        "a/c": [1, {"d": None}],
        "8080/e": True,
        "f": None,
    }
    assert leaves(document)[0]["8080/e"].path == (8080, "e")


def test_what_is_left_out_is_told():
    kept, skipped = leaves({"": 1, "a/b": 2, "a": {"b": 3}, "x/": 4, "set": {1: {1, 2}}})
    assert set(kept) == {"a/b"}
    assert len(skipped) == 4


@pytest.mark.parametrize(
    ("value", "data", "kind"),
    [
        (1, b"1", "int"),
        (True, b"true", "bool"),
        (1.0, b"1.0", "float"),
        ("", b"", "str"),
        (date(2024, 5, 1), b"2024-05-01", "str"),
        ("!!binary AP8=", b"\0\xff", "bytes"),
        ("!!binary no", b"!!binary no", "str"),
        ([], b"[]", "json"),
        (None, b"null", "json"),
    ],
)
def test_values_of_leaves(value, data, kind):
    entry = entry_of("k", value)
    assert (entry.value, entry.value_type) == (data, kind)


def test_the_revision_tells_types_apart():
    assert entry_of("k", 1).revision != entry_of("k", "1").revision
    assert entry_of("k", 1).revision == entry_of("k", 1).revision


@pytest.mark.parametrize(
    ("data", "kind", "value"),
    [
        (b"5", "int", 5),
        (b"text", "bytes", "text"),
        (b"\0\xff", "bytes", "!!binary AP8="),
        (b"!!binary x", "bytes", "!!binary ISFiaW5hcnkgeA=="),
        (b"[1]", "application/json", [1]),
        (b"\xff", "image/png", "!!binary /w=="),
    ],
)
def test_what_a_write_puts(data, kind, value):
    assert value_of(Write("k", data, kind)) == value
    assert entry_of("k", value).decode() is not None


@pytest.mark.parametrize(
    ("data", "kind"), [(b"{}", "json"), (b"x", "int"), (b"!!binary AA==", "str")]
)
def test_what_no_leaf_can_be(data, kind):
    with pytest.raises(InvalidValue, match="'k'"):
        value_of(Write("k", data, kind))


def test_putting_and_removing():
    document = {"a": {"b": 1}, 8080: {}}
    put(document, ("a", "c", "d"), 2)
    put(document, ("8080", "x"), 3)
    assert document == {"a": {"b": 1, "c": {"d": 2}}, 8080: {"x": 3}}
    for path in (("a", "b", "below"), ("a",)):
        with pytest.raises(InvalidKey):
            put(document, path, 1)
    remove(document, ("a", "c", "d"))
    assert document == {"a": {"b": 1}, 8080: {"x": 3}}
    remove(document, ("a", "b"))
    remove(document, (8080, "x"))
    assert document == {}


def test_names_of_documents():
    assert [is_document(name) for name in ("a.toml", "a/b.YML", "json", ".json", "a.json.bak")] == [
        True,
        True,
        False,
        True,
        False,
    ]


@pytest.mark.parametrize("name", ["s.toml", "s.yaml", "s.json"])
def test_formats_refuse_what_is_none(name):
    for data in (b"\xff", b"[1", b'{"a": ', b"- 1\n- 2\n"):
        with pytest.raises(Malformed):
            format_of(name).read(data)
    deep = b'{"a":' * 100_000 if name == "s.json" else b"a = " + b"[" * 100_000
    if name != "s.yaml":
        with pytest.raises(Malformed):
            format_of(name).read(deep)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"a":1}', b'{"a": 2}'),
        (b'{\n\t"a": 1\n}\n', b'{\n\t"a": 2\n}\n'),
        (b"", b'{\n  "a": 2\n}\n'),
        (b"{}\n", b'{\n  "a": 2\n}\n'),
    ],
)
def test_json_keeps_its_indentation(before, after):
    edited = format_of("s.json").edit(before or b"{}\n", lambda document: put(document, ("a",), 2))
    assert edited == after
    assert json.loads(edited) == {"a": 2}


def test_positions_of_what_is_seen_as_a_whole():
    versions = Versions()
    first = versions.position("a")
    assert versions.position("a") == first
    versions.position("b")
    again = versions.position("a")
    assert not versions.is_same(first, again), "it was something else meanwhile"
    assert versions.is_same(again, again)
    elsewhere = Versions().position("a")
    assert versions.is_same(elsewhere, again), "another process saw the same"
    for made_up in ("", ":", "x", f"{again}9", f"{elsewhere}9", "a:b", "::a:"):
        assert not versions.is_same(made_up, again)


def batch(*entries):
    return Batch(entries, "c", initial=True)


def entry(key, revision):
    return Entry(key, b"", "str", None, revision)


def test_the_last_state_of_a_layer_is_put_together():
    recent = Recent()
    everything, a, fx = Selection(), Selection.of("a"), Selection.of("fx/")
    assert recent.state_of(0, a, None) is None
    recent.add(a, [batch(entry("a", "1")), None], None)
    assert recent.state_of(0, a, None).entries == (entry("a", "1"),)
    assert recent.state_of(0, fx, None) is None, "nothing is known of those"
    assert recent.state_of(1, a, None) is None
    table = Table(2, a)
    table.apply(0, batch(entry("a", "0")))
    recent.add(fx, [batch(entry("fx/x", "1")), None], table)
    both = Selection.of("a", "fx/")
    assert {e.key: e.revision for e in recent.state_of(0, both, table)} == {"a": "1", "fx/x": "1"}
    recent.add(fx, [batch(), None], table)
    assert {e.key for e in recent.state_of(0, both, table)} == {"a"}, "what is gone is gone"
    assert recent.state_of(0, everything, table) is None
    recent.clear()
    assert {e.revision for e in recent.state_of(0, a, table)} == {"0"}
