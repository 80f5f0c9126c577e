"""SQL of keys that are spread over several columns, and of rows that are values."""

from __future__ import annotations

from collections.abc import Sequence

from datastream.sources.postgres.layout import Column, Layout, literal
from datastream.sources.postgres.values import fits_key

MOST_MEMBERS = 40
"""Columns in one call of a function, of which PostgreSQL takes a hundred arguments."""


def key_of(layout: Layout, row: str) -> str:
    """The key of a row, before it is cast to text; NULL where no key can name it."""
    names = [f"{row}.{column.quoted}" for column in layout.keys]
    if len(names) == 1:
        return names[0]
    texts = [f"{name}::text" for name in names]
    apart = [f"strpos({text}, '/') = 0" for text in texts[:-1]]
    named = [f"{text} <> ''" for text in texts]
    return f"(CASE WHEN {' AND '.join(apart + named)} THEN {_SLASH.join(texts)} END)"


def parts_of(layout: Layout, text: str) -> list[str]:
    """What each column of the key has of a key, given as an expression of the type text."""
    parts, rest = [], text
    for column in layout.keys[:-1]:
        parts.append(f"split_part({rest}, '/', 1)::{column.type}")
        rest = f"substr({rest}, strpos({rest}, '/') + 1)"
    return [*parts, f"{rest}::{layout.keys[-1].type}"]


def is_key(layout: Layout, text: str) -> str:
    """A condition: the key of the row ``t`` is the one spelled like the expression `text`."""
    if len(layout.keys) == 1:
        found = _equal(layout.key, f"{text}::{layout.key.type}")
        return found if layout.key.spells_alone else f"{found} AND {_exactly(layout, text)}"
    parts = zip(layout.keys, parts_of(layout, f"{text}::text"), strict=True)
    found = " AND ".join(_equal(column, part) for column, part in parts)
    return f"{found} AND {_exactly(layout, text)}"


def is_among(layout: Layout, first: int) -> str:
    """Whether the key of the row ``t`` is among the texts of a parameter."""
    given = f"${first}::text[]"
    if len(layout.keys) > 1:
        # By the first column's index, as far as that goes; then exactly.
        part = parts_of(layout, "k")[0]
        firsts = f"ARRAY(SELECT {part} FROM pg_catalog.unnest({given}) AS k)"
        found = _equal(layout.keys[0], f"ANY({firsts})")
        return f"({found} AND {key_of(layout, 't')} = ANY({given}))"
    if not layout.key.spells_alone:
        return f"t.{layout.key.quoted}::text = ANY({given})"
    return f"t.{layout.key.quoted} = ANY(${first}::{layout.key.type}[])"


def begins_among(layout: Layout, number: int) -> str:
    """Whether the key of the row ``t`` begins with one of the texts of a parameter."""
    given = f"${number}::text[]"
    found = f"{key_of(layout, 't')}::text ^@ ANY({given})"
    column = layout.keys[0]
    if len(layout.keys) == 1 or column.kind not in ("text", "varchar"):
        return found
    firsts = f"ARRAY(SELECT split_part(b, '/', 1) FROM pg_catalog.unnest({given}) AS b)"
    return f"(t.{column.quoted} = ANY({firsts}) AND {found})"


def fits(layout: Layout, key: str) -> bool:
    """Whether the columns of the key can hold this very text."""
    if not spells(layout, key):
        return False
    if len(layout.keys) == 1:
        return fits_key(key, layout.key)
    parts = key.split("/", len(layout.keys) - 1)
    is_whole = len(parts) == len(layout.keys) and all(parts)
    return is_whole and all(map(fits_key, parts, layout.keys))


def object_of(members: Sequence[Column], row: str) -> str:
    """The members of a row as jsonb."""
    pieces = []
    for begin in range(0, len(members), MOST_MEMBERS):
        some = members[begin : begin + MOST_MEMBERS]
        pairs = (f"{literal(column.name)}, {row}.{column.quoted}" for column in some)
        pieces.append(f"pg_catalog.jsonb_build_object({', '.join(pairs)})")
    return f"({' || '.join(pieces or [_EMPTY])})"


def spells(layout: Layout, text: str) -> bool:
    """Whether the database can spell this text: what it cannot is part of no key."""
    if not layout.codec or text.isascii():
        return True
    try:
        text.encode(layout.codec)
    except UnicodeEncodeError:
        return False
    return True


def _equal(column: Column, other: str) -> str:
    """A condition, by which an index is found: a column of the row ``t`` equals a value of its
    type."""
    if not column.equals:
        return "true"
    name = f"t.{column.quoted}"
    # A domain over an enum cannot be compared with the enum. Indexes are found all the same.
    compared = name if column.spells_alone else f"{name}::{column.type}"
    return f"{compared} {column.equals} {other}"


def _exactly(layout: Layout, text: str) -> str:
    return f'{key_of(layout, "t")}::text = {text}::text COLLATE "C"'


_SLASH = " || '/' || "
_EMPTY = "'{}'::jsonb"
