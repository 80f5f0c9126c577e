"""Entries, batches and writes to messages of the wire and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import blake2b

from google.protobuf.timestamp_pb2 import Timestamp

from datastream import Batch, DatastreamError, Entry, InvalidValue, Revision
from datastream._columns import EntryColumns
from datastream.entry import DELETE, PUT
from datastream.errors import shown
from datastream.source import Write
from datastream_grpc._columns import from_columns, pieces_of, to_columns
from datastream_grpc._pb import service_pb2 as pb

_OPERATIONS = frozenset(pb.Operation.values())
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DATA, _DATA_KEY, _DATA_VALUE = b"\x0a", b"\x0a", b"\x12"
"""Tags of DataResponse.data, and of its keys and values."""
_FOLLOWED = b"\x12"
"""Tag of FollowResponse.response."""
_LENGTHS = [bytes((length,)) for length in range(128)]
MESSAGE_BYTES = 256 << 10
"""A batch larger than this is sent in several messages, so that no client's limit is met, and a
client that does not read costs little."""


# Serialised messages that are written one after the other merge into one. So large ones are joined
# from small ones: protobuf would hold the interpreter's lock for as long as all of them take.


def to_data(entry: Entry) -> pb.Data:
    data = pb.Data(
        key=as_utf8(entry.key),
        value=entry.value,
        value_type=as_utf8(entry.value_type),
        revision=entry.revision,
    )
    if entry.operation is DELETE:
        data.operation = pb.OPERATION_DELETE
    if entry.updated_at is not None:
        set_time(data.updated_at, entry.updated_at)
    return data


def to_entry(data: pb.Data) -> Entry:
    """The entry of one message; servers without revisions get one made from the content."""
    if data.operation == pb.OPERATION_DELETE:
        return Entry(data.key, b"", data.value_type, _time(data), "", DELETE)
    revision = data.revision or _fingerprint(data.value, data.value_type)
    return Entry(data.key, data.value, data.value_type, _time(data), revision)


def entry_of(response: pb.DataResponse, key: str) -> Entry | None:
    """What an answer says that `key` holds: one about another key says nothing."""
    if key not in response.data:
        return None
    entry = to_entry(response.data[key])
    return entry if entry.key == key and entry.operation is PUT else None


def stored_of(response: pb.WriteResponse, writes: Sequence[Write]) -> list[Entry]:
    """The entries of an answer to `writes`.

    Raises:
        DatastreamError: it is about something else.
    """
    entries = [to_entry(data) for data in response.entries]
    if [entry.key for entry in entries] != [write.key for write in writes]:
        raise DatastreamError(
            "the server answered with other keys than were written; it may have written them"
        )
    return entries


def to_write(data: pb.Data, expect: str | None = None) -> Write:
    """The write that a client asks for.

    Raises:
        InvalidValue: `operation` is unknown, or `updated_at` no time between the years 1 and 9999.
    """
    if data.operation == pb.OPERATION_DELETE:
        return Write(data.key, None, expect=expect)
    if data.operation not in _OPERATIONS:
        raise InvalidValue(
            f"operation {data.operation} of {shown(data.key)} is none of this protocol; send PUT "
            "or DELETE"
        )
    time = _time(data)
    if time is None and data.HasField("updated_at"):
        raise InvalidValue(
            f"updated_at of {shown(data.key)} is no time between the years 1 and 9999; leave it out"
        )
    return Write(data.key, data.value, data.value_type or "bytes", expect, time)


def of_item(item: pb.WriteItem) -> Write:
    """The write that a client asks for; see `to_write`."""
    write = to_write(item.data, item.expect if item.HasField("expect") else None)
    return write._replace(ttl=item.ttl) if item.ttl else write


def to_item(write: Write) -> pb.WriteItem:
    data = pb.Data(key=write.key, value=write.value or b"", value_type=write.value_type)
    if write.value is None:
        data.operation = pb.OPERATION_DELETE
    if write.updated_at is not None:
        set_time(data.updated_at, write.updated_at)
    # What no wire can carry is no revision of anything.
    expect = None if write.expect is None else as_utf8(write.expect)
    return pb.WriteItem(data=data, expect=expect, ttl=write.ttl or 0)


def to_request(writes: Sequence[Write], id: str) -> pb.WriteRequest:
    """What is written in one go; the id of the writes comes before `id`."""
    message = author = ""
    for write in writes:
        id = write.id or id
        message, author = message or write.message, author or write.author
    items = [to_item(write) for write in writes]
    return pb.WriteRequest(writes=items, message=message, author=author, id=id)


def to_columned(batch: Batch) -> Iterator[bytes]:
    """The messages of a batch, serialised, what its keys hold in columns."""
    gone: list[Entry] = []
    is_first = True
    for piece in pieces_of(batch.entries, gone):
        message = _mark(batch, is_first=is_first, is_last=False)
        # Not made apart, as it would be copied.
        to_columns(piece, message.columns.add())
        yield message.SerializeToString()
        is_first = False
    yield from to_messages(replace(batch, entries=tuple(gone)), deletes=True, is_first=is_first)


def to_messages(
    batch: Batch,
    *,
    deletes: bool,
    part_of: Callable[[Entry], bytes] | None = None,
    is_first: bool = True,
) -> Iterator[bytes]:
    """The messages of one batch, serialised, split where they would get too large.

    Args:
        deletes: send those, too.
        part_of: in place of `to_part`, such as one that remembers.
        is_first: nothing of the batch was sent before.
    """
    parts: list[bytes] = []
    size = 0
    for entry in batch.entries:
        if not deletes and entry.operation is DELETE:
            continue
        part = (part_of or to_part)(entry)
        if parts and size + len(part) > MESSAGE_BYTES:
            mark = _mark(batch, is_first=is_first, is_last=False)
            yield b"".join([*parts, mark.SerializeToString()])
            parts, size, is_first = [], 0, False
        parts.append(part)
        size += len(part)
    if parts or deletes or batch.initial:
        mark = _mark(batch, is_first=is_first, is_last=True)
        yield b"".join([*parts, mark.SerializeToString()])


def to_state(batch: Batch) -> bytes:
    """A whole state in one message, serialised."""
    mark = pb.DataResponse(cursor=batch.cursor, initial=True)
    mark.unread.extend(map(as_utf8, batch.unread))
    return b"".join([*map(to_part, batch.entries), mark.SerializeToString()])


def to_stored(entries: Iterable[Entry]) -> bytes:
    """The answer to a write, serialised."""
    return b"".join(
        pb.WriteResponse(entries=(to_data(entry),)).SerializeToString() for entry in entries
    )


def to_part(entry: Entry) -> bytes:
    """A DataResponse with one entry."""
    # Put together by hand: as a message in a message in a message it takes twice as long.
    field = _field(_DATA_KEY, as_utf8(entry.key).encode())
    field += _field(_DATA_VALUE, to_data(entry).SerializeToString())
    return _field(_DATA, field)


def to_head(watch: int) -> bytes:
    """How each FollowResponse of a watch begins, serialised."""
    return pb.FollowResponse(watch=watch).SerializeToString()


def to_followed(head: bytes, message: bytes) -> bytes:
    """A message of Subscribe as one of Follow."""
    return head + _field(_FOLLOWED, message)


def _field(tag: bytes, content: bytes) -> bytes:
    """A field of protobuf's wire with a length."""
    length = len(content)
    if length < len(_LENGTHS):
        return tag + _LENGTHS[length] + content
    size = bytearray()
    while length > 127:
        size.append(length & 127 | 128)
        length >>= 7
    size.append(length)
    return tag + size + content


class Parts:
    """Puts the parts of split batches together again."""

    def __init__(self) -> None:
        self._whole: pb.DataResponse | None = None

    def add(self, message: pb.DataResponse) -> pb.DataResponse | None:
        """Take the next message; the batch that it completes, if it does."""
        if self._whole is None:
            self._whole = message
        else:
            self._whole.MergeFrom(message)
        if message.partial:
            return None
        whole, self._whole = self._whole, None
        return whole


def from_messages(messages: Iterable[pb.DataResponse]) -> Iterator[pb.DataResponse]:
    """The batches of a stream."""
    parts = Parts()
    for message in messages:
        whole = parts.add(message)
        if whole is not None:
            yield whole


def entries_of(message: pb.DataResponse) -> Sequence[Entry]:
    """The entries of a message."""
    if not message.columns:
        return [*map(to_entry, message.data.values())]
    columns = EntryColumns.joined([from_columns(some) for some in message.columns])
    if columns and not message.data:
        return columns
    return [*map(to_entry, message.data.values()), *columns]


def to_history(revisions: Iterable[Revision]) -> pb.HistoryResponse:
    return pb.HistoryResponse(
        revisions=[
            pb.Revision(
                data=to_data(revision.entry),
                point=as_utf8(revision.point),
                author=as_utf8(revision.author),
                message=as_utf8(revision.message),
            )
            for revision in revisions
        ]
    )


def to_revision(told: pb.Revision) -> Revision:
    return Revision(to_entry(told.data), told.point, told.author, told.message)


def to_point(point: str | datetime) -> str:
    """A point in the past as text."""
    return as_utf8(point) if isinstance(point, str) else point.isoformat()


def to_capabilities(capabilities: Sequence[tuple[str, str]]) -> bytes:
    """All keys in one message, serialised."""
    return b"".join(
        pb.ListCapabilitiesResponse(
            capabilities=(pb.Capability(key=as_utf8(key), value_type=as_utf8(kind)),)
        ).SerializeToString()
        for key, kind in capabilities
    )


def _mark(batch: Batch, *, is_first: bool, is_last: bool) -> pb.DataResponse:
    """What a part of a batch says beside its entries."""
    # Who resumes from the cursor has the whole batch; who forgets what it had has no part of it.
    mark = pb.DataResponse(initial=batch.initial and is_first, reset=batch.reset and is_first)
    if not is_last:
        mark.partial = True
        return mark
    mark.cursor = batch.cursor
    if batch.created:
        mark.created.extend(map(as_utf8, batch.created))
    if batch.unread:
        mark.unread.extend(map(as_utf8, batch.unread))
    if batch.author or batch.message or batch.point:
        mark.author, mark.message = as_utf8(batch.author), as_utf8(batch.message)
        mark.point = as_utf8(batch.point)
    return mark


def set_time(stamp: Timestamp, time: datetime) -> None:
    """Write `time` into a message."""
    # What FromDatetime does, in Python code that takes 2 µs longer.
    since = (time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH
    stamp.seconds = since.days * 86_400 + since.seconds
    stamp.nanos = since.microseconds * 1000


def _time(data: pb.Data) -> datetime | None:
    """The time of a message; None if it has none, or one that Python does not know."""
    return time_of(data.updated_at) if data.HasField("updated_at") else None


def time_of(stamp: Timestamp) -> datetime | None:
    """A time of the wire; None if Python does not know it."""
    # What ToDatetime does, in Python code that takes 5 µs longer.
    try:
        return _EPOCH + timedelta(0, stamp.seconds, stamp.nanos // 1000)
    except OverflowError:
        return None


def as_utf8(text: str) -> str:
    """Text as the wire can carry it, whatever a source made of foreign bytes."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _fingerprint(value: bytes, value_type: str) -> str:
    return blake2b(value_type.encode() + b"\0" + value, digest_size=12).hexdigest()
