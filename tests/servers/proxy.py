"""A TCP proxy that is cut, goes silent or becomes a black hole when a test wants it."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import suppress
from typing import Self


class Proxy:
    """Passes bytes between its own port and `port` of this machine."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._woken, self._waker = socket.socketpair()
        self._swallow = b""
        self._swallowing: tuple[socket.socket, socket.socket] | None = None
        self.is_hole = False
        """Whatever is sent vanishes, and no end is told that a connection is gone."""
        self._open = True
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """End every connection, at once."""
        for pair in list(self._pairs):
            for end in pair:
                # Its other end may have gone just now.
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

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
            ready, _, _ = select.select([self._listening, self._woken, *ends], [], [])
            if not self._open:
                return
            for end in ready:
                if end is self._listening:
                    client = self._listening.accept()[0]
                    server = socket.create_connection(("127.0.0.1", self._target))
                    self._pairs.append((client, server))
                else:
                    self._pass_on(end)

    def _pass_on(self, end: socket.socket) -> None:
        pair = next((pair for pair in self._pairs if end in pair), None)
        if pair is None:
            return
        other = pair[1] if end is pair[0] else pair[0]
        try:
            data = end.recv(65536)
            if self._swallow and end is pair[0] and self._swallow in data:
                self._swallowing, self._swallow = pair, b""
            elif pair is self._swallowing and end is pair[1]:
                data = b""
            if data:
                if not self.is_hole:
                    other.sendall(data)
                return
        except OSError:
            pass
        self._pairs.remove(pair)
        for each in pair:
            each.close()
