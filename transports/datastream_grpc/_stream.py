"""One running Subscribe call, read by a thread of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import grpc

from datastream import Entry, Operation, SourceUnavailable
from datastream.selection import Selects
from datastream_grpc import _convert
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._status import from_status


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
        self._messages: deque[pb.DataResponse] = deque()
        self.position = ""
        """Where the reader is: the position of the last message taken."""
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

    def first(self, timeout: float) -> pb.DataResponse:
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

    def has_all(self, entries: Sequence[Entry]) -> bool:
        """Whether every one of these, or what replaced it, has arrived; True if none will."""
        waiting = {entry.key for entry in entries}
        for message in self._messages:
            waiting.difference_update(message.data)
        return not waiting or self.error is not None

    def take(self) -> Iterable[pb.DataResponse]:
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
            for message in _convert.from_messages(self._call):
                with self._changed:
                    self._messages.append(message)
                    self._changed.notify_all()
            error: Exception = SourceUnavailable(f"{self._where}: the server ended the stream")
        except grpc.RpcError as broken:
            error = from_status(broken, self._where)
        with self._changed:
            self.error = error
            self._changed.notify_all()


def newest(messages: Iterable[pb.DataResponse]) -> list[Entry]:
    """The newest entry of each key in messages that follow each other."""
    entries: dict[str, Entry] = {}
    for message in messages:
        for entry in _convert.entries_of(message):
            entries.pop(entry.key, None)
            entries[entry.key] = entry
    return list(entries.values())


def puts(entries: Iterable[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.operation is Operation.PUT]
