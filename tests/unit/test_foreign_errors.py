"""Hostile documents, values, keys, selections and arguments: only errors of ours leave a call."""

import datetime as dt
import math
from contextlib import suppress
from decimal import Decimal

import pytest

import datastream
from datastream import DatastreamError, InvalidValue, Selection, codecs


def bomb(open_: str, close: str, join: str) -> str:
    """Nine aliases of nine aliases of …: a few hundred bytes that stand for gigabytes."""
    lines = [f"a: &a {open_}{join.format(0)}x{close}"]
    for before, name in zip("abcdefghij", "bcdefghijk", strict=True):
        parts = ", ".join(join.format(number) + f"*{before}" for number in range(9))
        lines.append(f"{name}: &{name} {open_}{parts}{close}")
    return "\n".join(lines)


YAML = [
    bomb("[", "]", ""),
    bomb("{", "}", "k{}: "),
    "a: &a\n  b: *a\n",
    "a: &a [*a]\n",
    "&a [*a]",
    "? [1, 2]\n: x\n",
    "? {a: b}\n: x\n",
    "a: !!python/object/apply:os.system ['true']\n",
    "!foo\na: 1\n",
    "a: 1\na: 2\n",
    f"a: {'9' * 5000}\n",
    "a: 2024-99-99\n",
    "a: 2024-01-01T99:99:99\n",
    "a: 0000-00-00\n",
    "a: 0001-01-01T00:00:00+23:59\n",
    "a: .inf\nb: .nan\nc: 1e999\n",
    "a: !!binary '***'\n",
    "a: !!set {x, y}\n",
    "a: !!omap [x: 1]\n",
    *(f"a: !!{tag} x\n" for tag in ("timestamp", "int", "float", "bool", "null", "seq", "map")),
    "<<: 1\na: 2\n",
    "a: *nope\n",
    "---\na: 1\n---\nb: 2\n",
    'a: "\\ud800"\n',
    "a: \x00\n",
    "%YAML 9.9\n---\na: 1\n",
    "- 1\n",
    ".nan: 1\ntrue: 2\nnull: 3\n",
    "'': 1\n",
    "a/b: 1\na:\n  b: 2\n",
    "a: [1,\n",
    "a: b: c\n",
    "@",
    "a: 0x\nb: 0b\nc: -.\n",
    "- " * 2000,
]
TOML = [
    f"a = {'9' * 5000}",
    "a = nan\nb = inf\nc = 1e999",
    "a = 2024-99-99",
    "a = 1979-05-27T00:32:00+99:99",
    "a=1\na=2",
    "a = " + "[" * 3000 + "]" * 3000,
    "a." * 3000 + "b = 1",
    'a = "\\ud800"',
    '"" = 1',
    '"a/b" = 1\n[a]\nb = 2',
    "[[a]]\nx=1\n[[a]]\nx=2",
    "a = '''",
]
JSON = [
    '{"a": NaN, "b": Infinity, "c": 1e999}',
    f'{{"a": {"9" * 5000}}}',
    "[" * 100_000,
    '{"a":' * 100_000,
    '{"a":' * 900 + "1" + "}" * 900,
    '{"a": "\\ud800"}',
    '{"\\ud800": 1}',
    '{"": 1}',
    '{"a": 1, "a": 2}',
    "[]",
    "",
    "\ufeff{}",
    '{"a/b": 1, "a": {"b": 2}}',
]
RAW = ["\xff\xfe", "\x00", "\xff", "{\xed\xa0\x80"]
DOCUMENTS = [
    (name, text.encode("utf-8", "surrogatepass"))
    for name, texts in (("yaml", YAML), ("toml", TOML), ("json", JSON))
    for text in texts
] + [(name, text.encode("latin-1")) for name in ("yaml", "toml", "json") for text in RAW]
NAMES = [f"{name}-{number}" for number, (name, _) in enumerate(DOCUMENTS)]


def no_bug(error: DatastreamError) -> None:
    assert "bug" not in str(error), error
    assert str(error).isprintable()


@pytest.mark.parametrize(("name", "data"), DOCUMENTS, ids=NAMES)
def test_hostile_documents(name, data):
    """Read, changed and bound, as a document and as a value of that type."""
    with datastream.open("memory:") as store:
        store.put(f"c.{name}", data, value_type=f"application/{name}")
        for use in (
            lambda document: [document[key] for key in document.snapshot()],
            lambda document: document.update({"new/key": 1, "text": "x\n\x1b", "list": [1]}),
        ):
            try:
                with store.document(f"c.{name}") as document:
                    use(document)
            except DatastreamError as error:
                no_bug(error)
        try:
            _ = store[f"c.{name}"]
        except InvalidValue as error:
            no_bug(error)
        dict(store)
        try:
            with store.bind(dict, f"c.{name}") as binding:
                assert isinstance(binding.current, dict)
        except InvalidValue as error:
            no_bug(error)


TYPES = (
    *("int", "float", "bool", "str", "json", "bytes", "text/x", "odd/type"),
    *("application/json; charset=x", "application/yaml", "application/toml"),
)


@pytest.mark.parametrize("value_type", TYPES)
def test_hostile_bytes_and_values(value_type):
    cycle: list = []
    cycle.append(cycle)
    deep: list = []
    for _ in range(20_000):
        deep = [deep]
    for data in (
        *(b"", b"\xff", b"9" * 5000, b"nan", b"1e999", b"[" * 20_000, b"\x00", b"\xed\xa0\x80"),
        *(b"1_0", b"\xef\xbb\xbf1", b"!!bool x", b"a: !!timestamp x", b"&a [*a]"),
    ):
        with suppress(DatastreamError):
            codecs.decode(data, value_type)
    for value in (
        *(math.nan, 10**5000, -(10**5000), "\ud800", {"a": math.nan}, {(1, 2): 3}, {"a": {1}}),
        *(complex(1, 2), print, object(), None, cycle, deep, Decimal(1), dt.date.max),
    ):
        with suppress(DatastreamError):
            codecs.encode(value, value_type)
        with suppress(DatastreamError):
            codecs.encode(value)


ODD = [
    *(None, 5, 1.5, b"x", True, [], {}, object(), math.nan, float, ["a"], [None], {"a": 1}, {"a"}),
    *("", "/", "a//b", "x/", "\0", "\ud800", "a" * 20_000, "\x1b[31m", "a\nb", "*", "[", "{a,b"),
    *("..", "\\", "**a**a**b", "[!", "{" * 2000, "*" * 2000, "☃" * 6000, dt.date.min),
]


@pytest.mark.parametrize("odd", ODD, ids=[str(number) for number in range(len(ODD))])
def test_odd_keys_selections_and_arguments(odd):
    with datastream.open("memory:") as store:
        store["a"] = 1
        calls = [
            *(getattr(store, name) for name in ("get", "entry", "delete", "pop", "setdefault")),
            *(getattr(store, name) for name in ("snapshot", "snapshot_batch", "history", "replay")),
            *(store.__getitem__, store.__contains__, store.__delitem__, store.at, store.document),
            *(store.view, Selection.of, datastream.overlay, datastream.open),
            *(store.watch, store.watch_values, store.watch_batches, store.awatch),
            lambda odd: store.put(odd, 1),
            lambda odd: store.put_many(odd),
            lambda odd: store.put_many({"a": 2}, expect=odd),
            lambda odd: store.put("a", odd),
            lambda odd: store.bind(odd, "app/").close(),
            lambda odd: store.bind(dict, odd).close(),
            lambda odd: datastream.overlay(store, odd).close(),
            lambda odd: store.flush(odd if odd is not None else 0.0),
        ]
        calls += [
            lambda odd, name=name: store.put("a", 1, **{name: odd})
            for name in ("value_type", "expect", "updated_at", "message", "author")
        ]
        calls += [
            lambda odd, call=call, name=name: getattr(store, call)(**{name: odd})
            for call in ("watch", "watch_values", "watch_batches", "snapshot", "view")
            for name in ("match", "exclude")
        ]
        calls += [
            lambda odd, name=name: store.watch_batches(**{name: odd})
            for name in ("since", "conflate", "every")
        ]
        calls += [
            lambda odd, name=name: store.view("fx/", **{name: odd}).close()
            for name in ("as_", "wait")
        ]
        for call in calls:
            try:
                call(odd)
            except DatastreamError as error:
                no_bug(error)
