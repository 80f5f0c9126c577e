"""Many entries as columns of the wire and back, without a step of Python for each field of each."""

from __future__ import annotations

from collections.abc import Iterator, MutableSequence, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from datastream import DatastreamError, Entry
from datastream._columns import EntryColumns
from datastream.entry import DELETE
from datastream_grpc._pb import service_pb2 as pb

ENTRIES, BYTES = 4096, 512 << 10
"""In one message, at most: half of it takes a tenth more time, and of more the reader waits."""
FIELD_BYTES = 20
"""What the lengths of the fields of an entry take, and its time."""
UNKNOWN = -(1 << 63)
"""Stands for a time that is not known."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNIT = timedelta(microseconds=1)
T = TypeVar("T")


def pieces_of(entries: Sequence[Entry], gone: list[Entry]) -> Iterator[EntryColumns]:
    """What entries hold, in pieces of about `BYTES`; one entry may have more.

    Args:
        gone: takes what columns cannot hold: the entries that are a DELETE.
    """
    for start in range(0, len(entries), ENTRIES):
        some = entries[start : start + ENTRIES]
        piece = EntryColumns.of(some)
        if piece is None:
            gone += [entry for entry in some if entry.operation is DELETE]
            piece = EntryColumns.of([entry for entry in some if entry.operation is not DELETE])
        if piece:
            yield from _halved(piece)


def _halved(entries: EntryColumns) -> Iterator[EntryColumns]:
    half = len(entries) // 2
    if half and _size_of(entries) > BYTES:
        yield from _halved(entries[:half])
        yield from _halved(entries[half:])
    else:
        yield entries


def _size_of(entries: EntryColumns) -> int:
    """Bytes on the wire, about: mostly all revisions are as long as the first."""
    beside = FIELD_BYTES + len(entries.revisions[0])
    return sum(map(len, entries.keys)) + sum(map(len, entries.values)) + beside * len(entries)


def to_columns(entries: EntryColumns, columns: pb.Columns) -> None:
    """Fill in some entries."""
    types, times = entries.types, entries.times
    if len(set(types)) == 1:
        types = types[:1]
    if any(entries.values):
        columns.values.extend(entries.values)
    if any(times):
        columns.times.extend(_to_numbers(list(times)))
    columns.revisions.extend(entries.revisions)
    for texts, column in ((entries.keys, columns.keys), (types, columns.value_types)):
        try:
            column.extend(texts)
        except UnicodeEncodeError:
            # A source may have made text of foreign bytes.
            del column[:]
            column.extend(map(_as_utf8, texts))


def from_columns(columns: pb.Columns) -> EntryColumns:
    """The entries of columns.

    Raises:
        DatastreamError: they are not of one length. What is missing would pass for deleted.
    """
    number = len(columns.keys)
    return EntryColumns(
        columns.keys[:],
        _filled(columns.values, number, b""),
        _types(columns, number),
        _from_numbers(list(_filled(columns.times, number, UNKNOWN))),
        _filled(columns.revisions, number, ""),
    )


def _filled(column: MutableSequence[T], number: int, empty: T) -> Sequence[T]:
    """A column of `number` items, which may have been left out."""
    if not column:
        return [empty] * number
    if len(column) != number:
        raise DatastreamError("the server sent columns of different lengths")
    # A list, made faster than by a step for each.
    return column[:]


def _types(columns: pb.Columns, number: int) -> list[str]:
    types = columns.value_types
    if len(types) == 1:
        return [types[0]] * number
    # Few types, held once each.
    known: dict[str, str] = {}
    return [known.setdefault(one, one) for one in _filled(types, number, "")]


# Often all have one time; mostly all are known and have a zone. Else each is looked at.


def _to_numbers(times: list[datetime | None]) -> list[int]:
    # In other zones, two times of an hour that comes twice are equal.
    is_plain = not times or times[0] is None or times[0].tzinfo is UTC
    if is_plain and times[:1] * len(times) == times:
        return list(map(_to_number, times[:1])) * len(times)
    try:
        return [(time - _EPOCH) // _UNIT for time in times]  # type: ignore[operator]
    except TypeError:
        return list(map(_to_number, times))


def _to_number(time: datetime | None) -> int:
    if time is None:
        return UNKNOWN
    return ((time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH) // _UNIT


def _from_numbers(numbers: list[int]) -> Sequence[datetime | None]:
    if numbers[:1] * len(numbers) == numbers:
        return list(map(_from_number, numbers[:1])) * len(numbers)
    try:
        return [_EPOCH + timedelta(0, 0, number) for number in numbers]
    except OverflowError:
        return list(map(_from_number, numbers))


def _from_number(number: int) -> datetime | None:
    try:
        return _EPOCH + timedelta(0, 0, number)
    except OverflowError:
        # The unknown one, or one that Python does not know.
        return None


def _as_utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
