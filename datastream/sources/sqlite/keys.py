"""SQL of keys, of one column or of several joined by "/"."""

from __future__ import annotations

from collections.abc import Sequence

from datastream.sources.sqlite.schema import quote_identifier


def column_of(name: str, row: str = "") -> str:
    """A column, quoted, of the row of that name."""
    return f"{row}.{quote_identifier(name)}" if row else quote_identifier(name)


def key_of(names: Sequence[str], row: str = "") -> str:
    """SQL: the key that columns spell together; NULL where it would not tell them apart."""
    columns = [column_of(name, row) for name in names]
    if len(columns) == 1:
        return columns[0]
    named = [f"typeof({column}) IN ('text', 'integer')" for column in columns]
    apart = [f"instr({column}, '/') = 0 AND {column} <> ''" for column in columns[:-1]]
    return f"CASE WHEN {' AND '.join(named + apart)} THEN {_SLASH.join(columns)} END"


def parts_of(text: str, count: int) -> list[str]:
    """SQL: what a key has for each of `count` columns."""
    parts = []
    for _ in range(count - 1):
        parts.append(f"substr({text}, 1, instr({text}, '/') - 1)")
        text = f"substr({text}, instr({text}, '/') + 1)"
    return [*parts, text]


_SLASH = " || '/' || "


def _number(text: str) -> str:
    """SQL: the number that a text spells, NULL if it spells none."""
    return (
        f"CASE WHEN CAST(CAST({text} AS INTEGER) AS TEXT) = {text} THEN CAST({text} AS INTEGER) END"
    )


def is_key(names: Sequence[str], text: str, row: str = "") -> str:
    """SQL: a row is the one of a key, given as an expression; by the index, then exactly."""
    parts = zip(names, parts_of(text, len(names)), strict=True)
    found = [f"{column_of(name, row)} IN ({part}, {_number(part)})" for name, part in parts]
    return " AND ".join([*found, f"{key_of(names, row)} = {text} COLLATE BINARY"])
