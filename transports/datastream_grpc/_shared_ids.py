"""Which writes were begun and done, known to all workers of one server, and after the end of each.

A file of the parent that all of them map has a slot for each id, by its hash: a newer one takes the
place of an older one.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterable
from enum import IntEnum
from hashlib import blake2b
from pathlib import Path

from datastream import Entry, SourceUnavailable, Store
from datastream.entry import deleted
from datastream_grpc import _convert
from datastream_grpc._pb import service_pb2 as pb

SLOTS = 16_384
DIGEST = 31
SLOT = DIGEST + 1


class Known(IntEnum):
    """What is known of a write."""

    NOTHING = 0
    BEGUN = 1
    DONE = 2


class Unsure(SourceUnavailable):
    """Nobody knows whether a write was done."""


class SharedIds:
    """Ids of writes in memory that processes share.

    Args:
        file: the descriptor of an `IdsFile`.
    """

    def __init__(self, file: int) -> None:
        self._memory = mmap.mmap(file, SLOTS * SLOT)

    def begin(self, name: str) -> Known:
        """What is known of a write; from here on it has begun."""
        place, digest = _place(name)
        slot = self._memory[place : place + SLOT]
        if slot[:DIGEST] == digest and slot[DIGEST]:
            return Known(slot[DIGEST])
        self._put(place, digest, Known.BEGUN)
        return Known.NOTHING

    def done(self, name: str) -> None:
        """It is done."""
        self._put(*_place(name), Known.DONE)

    def failed(self, name: str) -> None:
        """It was refused, and may come again."""
        self._put(*_place(name), Known.NOTHING)

    def close(self) -> None:
        self._memory.close()

    def _put(self, place: int, digest: bytes, known: Known) -> None:
        self._memory[place : place + SLOT] = digest + bytes((known,))


of_process: SharedIds | None = None
"""Set in a worker before it serves."""


class IdsFile:
    """What `SharedIds` map, of their parent: it has no name, and goes with the last of them."""

    def __init__(self) -> None:
        self.number, path = tempfile.mkstemp()
        """Its descriptor."""
        Path(path).unlink()
        os.truncate(self.number, SLOTS * SLOT)
        self._closed = False

    def close(self) -> None:
        """Close the descriptor, once."""
        if not self._closed:
            self._closed = True
            os.close(self.number)


def answer_again(store: Store, request: pb.WriteRequest, known: Known) -> bytes:
    """The answer to a write that another worker has begun, serialised.

    Raises:
        Unsure: that worker has not finished it, and it is not what the store holds.
    """
    asked = [item.data for item in request.writes]
    found = store.snapshot(*(data.key for data in asked))
    held = [found.get(data.key) or deleted(data.key) for data in asked]
    outcomes = [_outcome(data, entry) for data, entry in zip(asked, held, strict=True)]
    if known is Known.BEGUN and not all(is_same for _, is_same in outcomes):
        raise Unsure(
            "this write may have been done: the worker of the server that began it has not "
            "finished it, or has ended; read what is stored before writing again"
        )
    return _serialised(data for data, _ in outcomes)


def _outcome(asked: pb.Data, held: Entry) -> tuple[pb.Data, bool]:
    """What a write has stored, and whether that is what is held now.

    If not, it is without revision: that of another write would pass for its own.
    """
    if asked.operation == pb.OPERATION_DELETE:
        return _convert.to_data(deleted(asked.key)), not held.revision
    is_same = held.value == asked.value and held.value_type == (asked.value_type or "bytes")
    if held.revision and is_same:
        return _convert.to_data(held), True
    return pb.Data(key=asked.key, value=asked.value, value_type=asked.value_type), False


def _serialised(stored: Iterable[pb.Data]) -> bytes:
    return pb.WriteResponse(entries=stored).SerializeToString()


def _place(name: str) -> tuple[int, bytes]:
    digest = blake2b(name.encode(), digest_size=DIGEST).digest()
    return int.from_bytes(digest[:8], "big") % SLOTS * SLOT, digest
