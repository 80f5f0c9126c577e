"""The rows of a live table: pure."""

from datastream import Batch, Entry, Operation
from datastream.cli._output import SHOWN_CHARS
from datastream.cli._rows import HIGHLIGHT, MANY, Rows


def put(key, value=b"1"):
    return Entry(key, value, "int", None, "r")


def delete(key):
    return Entry(key, b"", "", None, "", Operation.DELETE)


def batch(*entries, **marks):
    return Batch(entries, **marks)


def keys(rows):
    return [key for key, _ in rows.page(0, 1000)]


def test_what_was_there_is_not_highlighted_and_what_comes_is():
    rows = Rows()
    rows.take(batch(put("b"), put("a"), initial=True), 0)
    assert keys(rows) == ["a", "b"]
    assert not rows.is_fresh("a")
    rows.take(batch(put("a", b"2"), put("aa")), 1)
    assert keys(rows) == ["a", "aa", "b"]
    assert [rows.is_fresh(key) for key in keys(rows)] == [True, True, False]
    assert not rows.expire(1 + HIGHLIGHT / 2)
    assert rows.expire(1 + HIGHLIGHT)
    assert not any(rows.is_fresh(key) for key in keys(rows))


def test_what_is_removed_stays_for_a_while():
    rows = Rows()
    rows.take(batch(put("a"), put("b"), initial=True), 0)
    rows.take(batch(delete("a"), delete("unknown")), 1)
    assert keys(rows) == ["a", "b"]
    assert rows.page(0, 1)[0][1].is_gone
    assert rows.expire(1 + HIGHLIGHT)
    assert keys(rows) == ["b"]


def test_what_comes_back_at_once_stays():
    rows = Rows()
    rows.take(batch(put("a"), initial=True), 0)
    rows.take(batch(delete("a")), 1)
    rows.take(batch(put("a")), 2)
    rows.expire(1 + HIGHLIGHT)
    rows.expire(2 + HIGHLIGHT)
    assert keys(rows) == ["a"]


def test_a_full_state_removes_what_it_lacks():
    rows = Rows()
    rows.take(batch(put("a"), put("b"), initial=True), 0)
    rows.take(batch(put("b"), put("c"), initial=True, reset=True), 1)
    rows.expire(1 + HIGHLIGHT)
    assert keys(rows) == ["b", "c"]


def test_many_new_keys_are_sorted_too():
    rows = Rows()
    rows.take(batch(put("5"), initial=True), 0)
    rows.take(batch(*(put(str(number)) for number in range(2 * MANY))), 1)
    assert keys(rows) == sorted(map(str, range(2 * MANY)))


def test_of_a_long_value_the_start_is_kept():
    rows = Rows()
    rows.take(batch(put("a", "é".encode() * 10_000), put("b", b"\xff" * 10_000)), 0)
    (_, text), (_, binary) = rows.page(0, 2)
    assert text.value == "é" * SHOWN_CHARS
    assert binary.value.startswith("base64:")
    assert len(binary.value) < 2 * SHOWN_CHARS
