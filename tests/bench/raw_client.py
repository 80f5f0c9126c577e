"""A gRPC client of bare HTTP/2 frames, which costs a third of what the server it loads does.

With a real client on the other of two cores, its own cost would hide the server's.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from datastream_grpc._pb import service_pb2 as pb

from tests.bench.wire import KEY, PUSH, SUBSCRIBE, data

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
LARGEST_WINDOW = (1 << 31) - 1
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK = END_STREAM = 1
END_HEADERS = 4
TIMEOUT = 30.0
"""Seconds without anything arriving after which a server counts as stuck."""


class Connection:
    """One connection with any number of calls, each sending one message.

    Flow control is opened as far as it goes, and the amounts measured stay below that.

    Args:
        window: bytes of each call that the server may send.
    """

    def __init__(self, address: str, window: int = LARGEST_WINDOW) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._authority = address
        self._next_stream = 1
        self._received = bytearray()
        self._unread: dict[int, bytearray] = {}
        shared = struct.pack(">I", LARGEST_WINDOW - 65_535)
        self._socket.sendall(PREFACE)
        self.open(window)
        self._socket.sendall(_frame(WINDOW_UPDATE, 0, 0, shared))

    def open(self, window: int) -> None:
        """Let the server send so many bytes of each call, also of those that run."""
        self._socket.sendall(_frame(SETTINGS, 0, 0, struct.pack(">HI", 4, window)))

    def fileno(self) -> int:
        return self._socket.fileno()

    def call(self, path: str, message: bytes) -> int:
        """Begin a call; returns its stream."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        head = b"".join(_header(*field) for field in self._fields(path))
        body = struct.pack(">BI", 0, len(message)) + message
        self._socket.sendall(
            _frame(HEADERS, END_HEADERS, stream, head) + _frame(DATA, END_STREAM, stream, body)
        )
        return stream

    def messages(self) -> Iterator[tuple[int, bytes]]:
        """Read what has arrived: each complete message with its stream."""
        chunk = self._socket.recv(1 << 18)
        if not chunk:
            raise ConnectionError("the server closed the connection")
        received = self._received
        received += chunk
        at, end = 0, len(received)
        while end - at >= 9:
            size = int.from_bytes(received[at : at + 3], "big")
            if end - at < 9 + size:
                break
            kind, flags = received[at + 3], received[at + 4]
            stream = int.from_bytes(received[at + 5 : at + 9], "big")
            body = received[at + 9 : at + 9 + size]
            at += 9 + size
            if kind == DATA:
                for message in self._split(stream, bytes(body)):
                    yield stream, message
            else:
                self._control(kind, flags, bytes(body))
        del received[:at]

    def idle(self, seconds: float) -> None:
        """Begin nothing for so long, but answer pings: the server ends a connection without.

        What arrives of messages is lost.
        """
        until = time.monotonic() + seconds
        while select.select([self], [], [], max(0.0, until - time.monotonic()))[0]:
            for _ in self.messages():
                pass

    def close(self) -> None:
        self._socket.close()

    def _split(self, stream: int, body: bytes | bytearray) -> Iterator[bytes]:
        if stream in self._unread:
            # In place: each of the many frames of a large message would copy what came before it.
            unread = self._unread.pop(stream)
            unread += body
            body = unread
        while len(body) >= 5:
            size = 5 + int.from_bytes(body[1:5], "big")
            if len(body) < size:
                break
            yield bytes(body[5:size])
            body = body[size:]
        if body:
            self._unread[stream] = body if isinstance(body, bytearray) else bytearray(body)

    def _control(self, kind: int, flags: int, body: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            self._socket.sendall(_frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self._socket.sendall(_frame(PING, ACK, 0, body))
        elif kind in (RST_STREAM, GOAWAY):
            raise ConnectionError(f"the server ended a call or the connection: {body!r}")

    def _fields(self, path: str) -> Iterable[tuple[str, str]]:
        yield ":method", "POST"
        yield ":scheme", "http"
        yield ":path", path
        yield ":authority", self._authority
        yield "te", "trailers"
        yield "content-type", "application/grpc"


class Subscribers:
    """Many streams of one key over some connections, and one more connection to push by."""

    def __init__(self, address: str, streams: int, connections: int) -> None:
        self._push = Connection(address)
        self._connections = [Connection(address) for _ in range(connections)]
        request = pb.DataRequest(keys=[KEY]).SerializeToString()
        for number in range(streams):
            self._connections[number % connections].call(SUBSCRIBE, request)
        self._streams = streams
        self._wait_for(streams)

    def deliveries_per_second(self, first: int, pushes: int, window: int) -> float:
        """Push `pushes` values, at most `window` ahead of the subscribers, until all have all."""
        delivered = pushed = 0
        begin = time.perf_counter()
        while delivered < pushes * self._streams:
            while pushed < min(pushes, delivered // self._streams + window):
                self._push.call(PUSH, data(first + pushed).SerializeToString())
                pushed += 1
            delivered += self._take()
        return delivered / (time.perf_counter() - begin)

    def _wait_for(self, number: int) -> None:
        while number > 0:
            number -= self._take()

    def _take(self) -> int:
        ready, _, _ = select.select([self._push, *self._connections], [], [], TIMEOUT)
        if not ready:
            raise TimeoutError("the server has not delivered all messages")
        if self._push in ready:
            for _ in self._push.messages():
                pass
        return sum(1 for c in ready if c is not self._push for _ in c.messages())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for connection in (self._push, *self._connections):
            connection.close()


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + struct.pack(">BBI", kind, flags, stream) + body


def _header(name: str, value: str) -> bytes:
    """A field in HPACK, literally: fields of less than 127 bytes need no more."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
