"""Rows of SQLite as entries, without a database."""

from itertools import product

from datastream.sources.sqlite.rows import entry, entry_columns

KEYS = ["a", 5]
VALUES = ["1.5", "é", "\udcff", "", b"x", 5, 1.5, None]
TYPES = ["float", "json", "image/png", "no type", "", b"int", 5, None]
TIMES = ["2026-01-01 10:00:00.000001+00:00", "2026-01-01", "never", "\udcff", 1e9, 5, b"x", None]


def test_many_rows_are_read_as_each_of_them_would_be():
    rows = list(product(KEYS, VALUES, TYPES, TIMES))
    one_by_one = {found.key: found for found in map(entry, rows)}
    assert entry_columns(rows) == list(one_by_one.values())


def test_times_that_are_equal_but_stored_differently_make_different_revisions():
    rows = [(f"k{n}", "v", "str", time) for n, time in enumerate((1, 1.0, 1))]
    found = entry_columns(rows)
    assert found == list(map(entry, rows))
    assert len(set(found.revisions)) == 2
