"""Parameters of many rows: an array for each column, in the binary form of PostgreSQL.

As text each element has to be escaped here and parsed there, which takes longer than storing it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import Any

from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEADER = Struct("!iiIii")
"""Dimensions, whether there are NULLs, the type of the elements, how many, the first index."""
_LENGTH = Struct("!i").pack
_MOMENT = Struct("!q").pack
_NULL = -1
START = datetime(2000, 1, 1, tzinfo=UTC)
"""Where PostgreSQL begins to count its microseconds."""
_MICROSECOND = timedelta(microseconds=1)
_NUMBERS = {"text": 25, "bytea": 17, "timestamptz": 1184}
"""Of the types, the same on every server."""


class Packed(bytes):
    """An array in binary form; its statement casts the parameter to the type."""


class PackedDumper(Dumper):
    """Hands over what is packed already."""

    format = Format.BINARY

    def dump(self, obj: Any) -> bytes:
        return bytes(obj)


def arrays(kinds: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[Packed]:
    """An array for each column of `rows`, whose elements are of `kinds`."""
    columns = zip(*rows, strict=True)
    return [packed(kind, column) for kind, column in zip(kinds, columns, strict=True)]


def packed(kind: str, values: Sequence[Any]) -> Packed:
    """An array of `values`, of which None is NULL.

    Args:
        kind: of the elements: "text", "bytea" or "timestamptz".
    """
    pieces = [_HEADER.pack(1, None in values, _NUMBERS[kind], len(values), 1)]
    for element in _ENCODED[kind](values):
        if element is None:
            pieces.append(_LENGTH(_NULL))
        else:
            pieces += (_LENGTH(len(element)), element)
    return Packed(b"".join(pieces))


def _bytes(values: Iterable[Any]) -> Iterable[bytes | None]:
    return values


def _texts(values: Iterable[Any]) -> Iterable[bytes | None]:
    return (None if value is None else value.encode() for value in values)


def stamps(moments: Iterable[datetime | None]) -> Iterator[bytes | None]:
    """The bytes in which PostgreSQL keeps times; None of none."""
    # What is written together often has one time in common.
    known: dict[datetime, bytes] = {}
    for moment in moments:
        if moment is None:
            yield None
        elif moment.fold:
            # To Python, it is the same as the one an hour before.
            yield _stamp(moment)
        else:
            if moment not in known:
                known[moment] = _stamp(moment)
            yield known[moment]


def _stamp(moment: datetime) -> bytes:
    return _MOMENT((moment - START) // _MICROSECOND)


_ENCODED: dict[str, Callable[[Iterable[Any]], Iterable[bytes | None]]] = {
    "text": _texts,
    "bytea": _bytes,
    "timestamptz": stamps,
}
