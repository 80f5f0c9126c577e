"""A TCP proxy that delays, cuts, crumbles, half-closes or swallows what passes, as a test wants."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from contextlib import suppress
from multiprocessing.connection import wait
from typing import NamedTuple, Self

Pair = tuple[socket.socket, socket.socket]


class _Held(NamedTuple):
    """What is to be sent later."""

    due: float
    pair: Pair
    end: socket.socket
    data: bytes


class Proxy:
    """Passes bytes between its own port and `port` of this machine."""

    def __init__(self, port: int) -> None:
        self.target = port
        """Where new connections go; what is not there refuses them."""
        self.chunk = 1 << 16
        """Bytes that are passed on at once."""
        self.delay = 0.0
        """Seconds that they take."""
        self.is_hole = False
        """Whatever is sent vanishes, and no end is told that a connection is gone."""
        self.passed = 0
        """Bytes that were passed on to clients."""
        self.accepted = 0
        """Connections."""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._pairs: list[Pair] = []
        self._held: deque[_Held] = deque()
        self._woken, self._waker = socket.socketpair()
        self._swallow = b""
        self._swallowing: Pair | None = None
        self._open = True
        self._refuses = False
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """End every connection, at once."""
        for pair in list(self._pairs):
            for end in pair:
                # Its other end may have gone just now.
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def half_close(self) -> None:
        """Tell every client that its server sends no more, while it may send on."""
        for client, _ in list(self._pairs):
            with suppress(OSError):
                client.shutdown(socket.SHUT_WR)

    def refuse(self) -> None:
        """End every connection, and every one that comes."""
        self._refuses = True
        self.cut()

    def accept(self) -> None:
        """After `refuse`: let connections through again."""
        self._refuses = False

    def cut_after(self, request: bytes) -> None:
        """Let `request` pass, and end its connection before there is an answer."""
        self._swallow = request

    def close(self) -> None:
        self._open = False
        self._waker.send(b"!")
        self._thread.join()
        for end in (self._listening, self._woken, self._waker, *sum(self._pairs, ())):
            end.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while True:
            ends = [end for pair in self._pairs for end in pair]
            left = max(0.0, self._held[0].due - time.monotonic()) if self._held else None
            # Not select(): some tests have more descriptors open than that takes.
            ready = wait([self._listening, self._woken, *ends], left)
            if not self._open:
                return
            self._send_due()
            for end in ready:
                if end is self._listening:
                    self._take()
                else:
                    self._pass_on(end)

    def _take(self) -> None:
        client = self._listening.accept()[0]
        self.accepted += 1
        try:
            if self._refuses:
                raise ConnectionRefusedError
            server = socket.create_connection(("127.0.0.1", self.target))
        except OSError:
            client.close()
            return
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pairs.append((client, server))

    def _pass_on(self, end: socket.socket) -> None:
        pair = next((pair for pair in self._pairs if end in pair), None)
        if pair is None:
            return
        other = pair[1] if end is pair[0] else pair[0]
        data = b""
        with suppress(OSError):
            data = end.recv(1 << 16)
        if self._swallow and end is pair[0] and self._swallow in data:
            self._swallowing, self._swallow = pair, b""
        elif pair is self._swallowing and end is pair[1]:
            data = b""
        if not data:
            self._end(pair)
        elif not self.is_hole:
            self._held.append(_Held(time.monotonic() + self.delay, pair, other, data))
            self._send_due()

    def _send_due(self) -> None:
        while self._held and self._held[0].due <= time.monotonic():
            _, pair, end, data = self._held.popleft()
            if pair in self._pairs:
                self._send(pair, end, data)

    def _send(self, pair: Pair, end: socket.socket, data: bytes) -> None:
        # A test may change it while these bytes are sent.
        chunk = self.chunk
        try:
            for start in range(0, len(data), chunk):
                end.sendall(data[start : start + chunk])
        except OSError:
            self._end(pair)
            return
        if end is pair[0]:
            self.passed += len(data)

    def _end(self, pair: Pair) -> None:
        self._pairs.remove(pair)
        for each in pair:
            each.close()
