"""The calls of one server, ours or the ancestor's, as what a Source answers."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from time import sleep
from typing import Any, TypeVar

import grpc

from datastream import Capability, Entry, Revision, SourceUnavailable, Unsupported
from datastream.source import Reading, Write
from datastream_grpc import _convert
from datastream_grpc._client_metrics import ClientMetrics
from datastream_grpc._connection import Connection, Stubs
from datastream_grpc._older import PASSING, POLL, Older
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._pusher import Pusher
from datastream_grpc._status import is_unnamed, name_of
from datastream_grpc._stream import StateParts, Wanted, message_of, reading_of
from datastream_grpc._watches import Watches

LEGACY = "legacy:"
"""Marks positions in the streams of servers that have no cursors."""

ATTEMPTS = 3
"""How often a write is sent whose connection broke."""
RETRY_PAUSE = 0.02
"""Seconds, and twice that before the third."""

T = TypeVar("T")


class Calls:
    """Calls of one server, from any thread, beside each other.

    Args:
        connection: to the server; stays the caller's.
        where: the server, for error texts.
        timeout: seconds for one call.
    """

    def __init__(self, connection: Connection, where: str, timeout: float) -> None:
        self.connection = connection
        self.where = where
        self.metrics = ClientMetrics(where)
        self.timeout = timeout
        self.pushes = False
        """The server takes writes through a stream, and knows one that comes again by its id."""
        self._legacy_positions = count(1)
        self._prefix, self._numbers = secrets.token_hex(8), count(1)
        # For memory work, and for beginning a stream, which waits for nothing.
        self._lock = threading.Lock()
        self._writing = 0
        self._pusher: Pusher | None = None
        self.snapshots = False
        """The server sends a state in parts."""
        self.watches = Watches(connection, where, timeout, self.silence)
        self.news = threading.Event()
        """Set when something arrived, and whenever there is no stream to wait for any more."""
        self.older = Older(lambda: self._stubs, timeout, connection.heard, self.news.set)
        # The server has answered without a cursor: it is none of ours.
        self._has_no_cursors = False

    def capabilities(self, at: str = "") -> Sequence[Capability]:
        """Every key with its type, now or at a point in the past."""
        response = self._call(
            "ListCapabilities", self._stubs.list, pb.ListCapabilitiesRequest(at=at)
        )
        return [Capability(c.key, c.value_type) for c in response.capabilities if _is_key(c.key)]

    def entry(self, key: str, at: str = "") -> Entry | None:
        """The entry of one key, now or at a point in the past."""
        try:
            response = self._call("Sync", self._stubs.sync, pb.DataRequest(keys=(key,), at=at))
        except grpc.RpcError as error:
            if at or not self.may_be_older(error):
                raise
            response = self.older.state((key,), None)
            if key in response.unread:
                raise
        return _convert.entry_of(response, key)

    def state(self, wanted: Wanted, at: str = "") -> Reading:
        """The complete state, now or at a point in the past."""
        if self._has_no_cursors and not self.pushes:
            return self._older_state(wanted)
        if self.snapshots:
            try:
                return self._snapshot(wanted, at)
            except grpc.RpcError as error:
                if is_unnamed(error, grpc.StatusCode.UNIMPLEMENTED):
                    # An older server has taken the place of the one that has it.
                    self.snapshots = False
                elif error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                # Else it allows no stream more, and takes a call.
        try:
            response = self._call("Sync", self._stubs.sync, wanted.request(at=at, partial=True))
        except grpc.RpcError as error:
            if at or not self.may_be_older(error):
                raise
            return self._older_state(wanted)
        if not (response.cursor or self.pushes):
            self._has_no_cursors = True
            return self._older_state(wanted)
        position = self.position(response.cursor)
        unread = frozenset(response.unread)
        return Reading(_convert.entries_of(response), position, complete=True, unread=unread)

    def _snapshot(self, wanted: Wanted, at: str) -> Reading:
        """The state in parts, each decoded while the server makes the next."""
        request = wanted.request(at=at, partial=True, columns=True)
        state = StateParts()
        with self.metrics.call("Snapshot") as metadata:
            call = self._stubs.snapshot(request, timeout=self.timeout, metadata=metadata)
            try:
                for message in call:
                    self.connection.heard()
                    state.add(message)
            except grpc.RpcError as error:
                self._ask_if_late(error)
                raise
            finally:
                call.cancel()
        return state.reading()

    def once(self, wanted: Wanted, since: str) -> Reading:
        """What changed after `since`, by a watch that ends with its first batch."""
        if since.startswith(LEGACY):
            return self.state(wanted)
        request = wanted.request(deletes=True, since=since, once=True, columns=True)
        received = self.watches.first(request)
        if not received.cursor:
            # An ancestor's server, which knows neither `since` nor `once`.
            return self.state(wanted)
        return reading_of([message_of(received, received.cursor)])

    def describe_at(self, point: str) -> pb.DescribeResponse:
        """What can be done with the store as it was then."""
        response: pb.DescribeResponse = self._call(
            "Describe", self._stubs.describe, pb.DescribeRequest(at=point)
        )
        return response

    def history(self, key: str, at: str = "") -> Iterator[Revision]:
        """What a key held before, newest first."""
        request = pb.HistoryRequest(key=key, at=at)
        for some in self._long(self._stubs.history, request):
            yield from map(_convert.to_revision, some.revisions)

    def replay(self, wanted: Wanted, since: str) -> Iterator[Reading]:
        """What happened since a point in the past, batch by batch."""
        request = pb.ReplayRequest(
            keys=[*wanted.keys, *wanted.prefixes], match=wanted.patterns, since=since
        )
        for received in _convert.from_messages(self._long(self._stubs.replay, request)):
            reading = reading_of([message_of(received, received.cursor)])
            yield reading._replace(complete=received.initial)

    def _long(self, method: Callable[..., Any], request: Any) -> Iterator[Any]:
        """The messages of a stream that ends by itself, or with the connection."""
        call = method(request)
        with self.connection.watched():
            try:
                for message in call:
                    self.connection.heard()
                    yield message
            finally:
                call.cancel()

    def write(self, writes: Sequence[Write]) -> list[Entry]:
        """Write all of them; the entries as stored."""
        request = _convert.to_request(writes, self.new_id())
        try:
            response = self._written(request)
        except grpc.RpcError as error:
            if is_unnamed(error, grpc.StatusCode.UNIMPLEMENTED):
                return [self._push_alone(writes)]
            raise
        return _convert.stored_of(response, writes)

    def new_id(self) -> str:
        """Of a write: one that nobody else has, or guesses."""
        return f"{self._prefix}-{next(self._numbers)}"

    def _written(self, request: pb.WriteRequest) -> pb.WriteResponse:
        """The answer to a write: alone by a call, beside others through the stream of all."""
        with self._lock:
            self._writing += 1
            is_alone = self._writing == 1 or not self.pushes
        try:
            answer = None if is_alone else self._pushed(request)
            return answer or self._write_again(request)
        finally:
            with self._lock:
                self._writing -= 1

    def _pushed(self, request: pb.WriteRequest) -> pb.WriteResponse | None:
        """The answer through the stream; None if it broke, so that nobody knows."""
        future = self._pusher_now().push(request)
        if future is None:
            return None
        try:
            with self.metrics.call("Push"):
                response = future.result(self.timeout)
        except TimeoutError:
            raise self.silence() from None
        except (grpc.RpcError, EOFError, ValueError):
            return None
        self.connection.heard()
        return response

    def _pusher_now(self) -> Pusher:
        begin = self._stubs.push
        with self._lock:
            if self._pusher is None or self._pusher.ended:
                self._pusher = Pusher(begin, self.where)
            return self._pusher

    def _write_again(self, request: pb.WriteRequest) -> pb.WriteResponse:
        """Write by a call; again, if the connection broke: the id tells the server."""
        for attempt in range(1, ATTEMPTS):
            try:
                return self._write_once(request)
            except grpc.RpcError as error:
                if not (self.pushes and is_unnamed(error, grpc.StatusCode.UNAVAILABLE)):
                    raise
            # The next one may still find the connection that has just broken.
            sleep(attempt * RETRY_PAUSE)
        return self._write_once(request)

    def _write_once(self, request: pb.WriteRequest) -> pb.WriteResponse:
        response: pb.WriteResponse = self._call("Write", self._stubs.write, request)
        return response

    def end_pushes(self, timeout: float) -> None:
        """End the stream of writes, if there is one."""
        with self._lock:
            pusher, self._pusher = self._pusher, None
        if pusher is not None:
            pusher.close(timeout)

    def position(self, cursor: str) -> str:
        """The position for the cursor of a message, which an ancestor's server does not send."""
        # Its positions only tell apart what was received from what was not.
        return cursor or f"{LEGACY}{next(self._legacy_positions)}"

    def pause(self, seconds: float) -> float:
        """Seconds to wait where no stream runs; longer for one that has none for all keys."""
        is_older = self._has_no_cursors and not self.pushes
        return min(POLL, self.connection.due()) if is_older else seconds

    def silence(self) -> SourceUnavailable:
        """What to raise when the server does not answer in time."""
        self.connection.ask()
        return SourceUnavailable(
            f"{self.where}: no answer within {self.timeout:g} s; is the server overloaded?"
        )

    @property
    def _stubs(self) -> Stubs:
        return self.connection.stubs

    def _call(self, name: str, method: Callable[..., T], request: Any) -> T:
        try:
            with self.metrics.call(name) as metadata:
                response = method(request, timeout=self.timeout, metadata=metadata)
        except grpc.RpcError as error:
            self._ask_if_late(error)
            raise
        self.connection.heard()
        return response

    def _ask_if_late(self, error: Any) -> None:
        """Ask after a server that did not answer in time: it is slow, or gone without a word."""
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            self.connection.ask()

    def may_be_older(self, error: Any) -> bool:
        """Whether an error may be that of an ancestor's server for a key that is not there."""
        return not self.pushes and not name_of(error) and error.code() not in PASSING

    def _older_state(self, wanted: Wanted) -> Reading:
        """The state as an ancestor's server gives it: key by key."""
        selects = wanted.selection()
        wants = None if wanted.has_keys_only() else selects.matches
        state = self.older.state(wanted.keys, wants)
        unread = frozenset(state.unread)
        return Reading(_convert.entries_of(state), self.position(""), complete=True, unread=unread)

    def _push_alone(self, writes: Sequence[Write]) -> Entry:
        """A plain put, all that the ancestor's servers know of writing."""
        write = writes[0]
        if len(writes) > 1 or write.value is None or write.expect is not None:
            raise Unsupported(
                f"{self.where} only takes single puts without expect: it is a server of the "
                "older protocol"
            )
        data = _convert.to_item(write).data
        if write.updated_at is None:
            # Its servers store what they are sent, and take a missing time for 1970.
            data.updated_at.GetCurrentTime()
        self._call("PushUpdate", self._stubs.push_update, data)
        return _convert.to_entry(data)


def _is_key(text: str) -> bool:
    """Whether what a server lists may be a key; those of S3 list "/"."""
    return bool(text) and text[-1] != "/" and "\0" not in text
