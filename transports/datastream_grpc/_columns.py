"""Many entries as columns of the wire and back, without a step of Python for each field of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import repeat
from operator import itemgetter
from typing import TypeVar

from datastream import DatastreamError, Entry, Operation
from datastream_grpc._pb import service_pb2 as pb

ENTRIES = 2048
"""In one message, at most."""
UNKNOWN = -(1 << 63)
"""Stands for a time that is not known."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_KEY, _VALUE = itemgetter(0), itemgetter(1)
T = TypeVar("T")

# What `Entry(*fields)` does, less a call of Python.
_entry_of = partial(tuple.__new__, Entry)


def pieces_of(entries: Sequence[Entry], most: int) -> Iterator[Sequence[Entry]]:
    """Entries in pieces of about `most` bytes; a single one may have more."""
    for start in range(0, len(entries), ENTRIES):
        yield from _halved(entries[start : start + ENTRIES], most)


def _halved(entries: Sequence[Entry], most: int) -> Iterator[Sequence[Entry]]:
    half = len(entries) // 2
    if half and sum(map(len, map(_KEY, entries))) + sum(map(len, map(_VALUE, entries))) > most:
        yield from _halved(entries[:half], most)
        yield from _halved(entries[half:], most)
    else:
        yield entries


def to_columns(entries: Iterable[Entry]) -> pb.Columns:
    """Entries that hold something."""
    keys, values, types, times, revisions, _ = zip(*entries, strict=True)
    if len(set(types)) == 1:
        types = types[:1]
    columns = pb.Columns(
        values=values if any(values) else None,
        times=_to_numbers(times) if any(times) else None,
        revisions=revisions,
    )
    for texts, column in ((keys, columns.keys), (types, columns.value_types)):
        try:
            column.extend(texts)
        except UnicodeEncodeError:
            # A source may have made text of foreign bytes.
            del column[:]
            column.extend(map(_as_utf8, texts))
    return columns


def from_columns(columns: pb.Columns) -> Iterator[Entry]:
    """The entries of columns.

    Raises:
        DatastreamError: they are not of one length. What is missing would pass for deleted.
    """
    number = len(columns.keys)
    values = _filled(columns.values, number, b"")
    revisions = _filled(columns.revisions, number, "")
    times = _from_numbers(_filled(columns.times, number, UNKNOWN))
    fields = zip(
        columns.keys, values, _types(columns, number), times, revisions, repeat(Operation.PUT)
    )
    return map(_entry_of, fields)


def _filled(column: Sequence[T], number: int, empty: T) -> Iterable[T]:
    """A column of `number` items, which may have been left out."""
    if not column:
        return repeat(empty)
    if len(column) != number:
        raise DatastreamError("the server sent columns of different lengths")
    return column


def _types(columns: pb.Columns, number: int) -> Iterable[str]:
    types = columns.value_types
    if len(types) == 1:
        return repeat(types[0])
    # Few types, held once each.
    known: dict[str, str] = {}
    return (known.setdefault(one, one) for one in _filled(types, number, ""))


# Entries that were written together share their time: nothing is done for one that comes again.


def _to_numbers(times: Iterable[datetime | None]) -> Iterator[int]:
    before, number = None, UNKNOWN
    for time in times:
        if time is not before:
            before, number = time, _to_number(time)
        yield number


def _to_number(time: datetime | None) -> int:
    if time is None:
        return UNKNOWN
    since = (time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _from_numbers(numbers: Iterable[int]) -> Iterator[datetime | None]:
    before, time = UNKNOWN, None
    for number in numbers:
        if number != before:
            before, time = number, _from_number(number)
        yield time


def _from_number(number: int) -> datetime | None:
    try:
        return _EPOCH + timedelta(0, 0, number)
    except OverflowError:
        # The unknown one, or one that Python does not know.
        return None


def _as_utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
