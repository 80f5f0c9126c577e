"""One running Subscribe call, read by a thread of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import grpc

from datastream import Entry, Operation, SourceUnavailable
from datastream.selection import Selects
from datastream_grpc import _convert
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._status import from_status


class Message(NamedTuple):
    """A batch as received."""

    entries: list[Entry]
    cursor: str
    initial: bool
    reset: bool


class Stream:
    """Messages as they arrive, until they are taken.

    Args:
        call: the running call.
        selection: what it was opened for.
        where: the server, for error texts.
        changed: notified whenever something arrived or the call ended.
    """

    def __init__(
        self, call: Any, selection: Selects, where: str, changed: threading.Condition
    ) -> None:
        self._call = call
        self._keys = selection.keys
        self._others = (selection.prefixes, selection.patterns)
        self._where = where
        self._changed = changed
        self._messages: deque[Message] = deque()
        self.position = ""
        """Where the reader is: the position of the last message taken."""
        self.lived = False
        """Something was received."""
        self.error: Exception | None = None
        """Why the call ended, once it has."""
        self._thread = threading.Thread(
            target=self._receive, name="datastream-grpc-stream", daemon=True
        )
        self._thread.start()

    def continues(self, selection: Selects, since: str) -> bool:
        """Whether taking from here is what reading `selection` from `since` would give."""
        keys = selection.keys
        return (
            self.error is None
            and since == self.position
            # The hub's union hands out one object until it changes; comparing is for the rest.
            and (keys is self._keys or keys == self._keys)
            and self._others == (selection.prefixes, selection.patterns)
        )

    def first(self, timeout: float) -> Message:
        """The message that begins the stream.

        Raises:
            SourceUnavailable: none came within `timeout` seconds.
            DatastreamError: the server refused.
        """
        with self._changed:
            self._changed.wait_for(self.has_news, timeout)
            if self._messages:
                return self._messages.popleft()
        self.cancel()
        raise self.error or SourceUnavailable(
            f"{self._where}: no answer within {timeout:g} s; is the server overloaded?"
        )

    def has_news(self) -> bool:
        return bool(self._messages) or self.error is not None

    def shows(self, entries: Sequence[Entry]) -> bool:
        """Whether each of these is among what arrived and was not taken yet."""
        arrived = {(e.key, e.revision) for message in self._messages for e in message.entries}
        return all((entry.key, entry.revision) in arrived for entry in entries)

    def take(self) -> list[Message]:
        """All that has arrived."""
        with self._changed:
            messages = list(self._messages)
            self._messages.clear()
        return messages

    def cancel(self) -> None:
        self._call.cancel()

    def join(self) -> None:
        self._thread.join()

    def _receive(self) -> None:
        try:
            for received in _convert.from_messages(self._call):
                message = _received(received)
                with self._changed:
                    self.lived = True
                    self._messages.append(message)
                    self._changed.notify_all()
            error: Exception = SourceUnavailable(f"{self._where}: the server ended the stream")
        except grpc.RpcError as broken:
            error = from_status(broken, self._where)
        with self._changed:
            self.error = error
            self._changed.notify_all()


def _received(message: pb.DataResponse) -> Message:
    entries = [_convert.to_entry(data) for data in message.data.values()]
    return Message(entries, message.cursor, message.initial, message.reset)


def newest(messages: Iterable[Message]) -> list[Entry]:
    """The newest entry of each key in messages that follow each other."""
    entries: dict[str, Entry] = {}
    for message in messages:
        for entry in message.entries:
            entries.pop(entry.key, None)
            entries[entry.key] = entry
    return list(entries.values())


def puts(entries: Iterable[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.operation is Operation.PUT]
