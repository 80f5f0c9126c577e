"""One reader of a backend for all processes of a machine, by a relay on a unix socket."""

from __future__ import annotations

import logging
import os
import random
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import Any
from weakref import WeakSet

import datastream
from datastream import DatastreamError, Store, _flock
from datastream.url import parse
from datastream_grpc._unix import address_of, client_trouble, listens
from datastream_grpc.server import serve
from datastream_grpc.source import GrpcSource

PAUSE = 0.2
"""Seconds, at most, between two attempts to take over from a process that ended."""
START = 10.0
"""Seconds that the process which came first has to serve."""
GRACE = 0.2
"""Seconds that calls of others get when the process that serves ends."""

log = logging.getLogger("datastream.grpc")


def shared(url: str, path: str | os.PathLike[str], **options: Any) -> Store:
    """The store that `url` names, read once for all processes which share `path`.

    Whoever comes first opens it and serves it on the unix socket `path`; every process, the
    first one too, is a client of that. When the one that serves ends, however it ends, another
    takes over, and all go on from where they were. Call it in each process, after a fork.

    Args:
        url: as for `datastream.open`; the same in all of them.
        path: of the socket, in a directory of your own; ``PATH.lock`` beside it stays. Only this
            user can connect.
        options: as for `datastream.open`.

    Raises:
        DatastreamError: `url` is the memory of one process, `path` is too long, or what
            `datastream.open` raises in the process that comes first.
        OSError: there is no such directory, or it cannot be written.
    """
    location = parse(url)
    if location.scheme == "memory":
        raise DatastreamError(
            f"{location.shown} ends with its process, so that nobody could take it over; share a "
            "backend that lasts"
        )
    place = os.path.abspath(os.fspath(path))  # noqa: PTH100
    if trouble := client_trouble(place):
        raise DatastreamError(f"{place}: {trouble}")
    relay = _Relay(lambda: datastream.open(url, **options), place)
    return Store(_SharedSource(relay, place), name=f"{location.shown}, shared at {place}")


class _SharedSource(GrpcSource):
    """The client of a relay that may be its own.

    Args:
        relay: of all who share it; closed with this.
        path: of its socket.
    """

    def __init__(self, relay: _Relay, path: str) -> None:
        self._relay = relay
        relay.begin()
        try:
            super().__init__(address_of(path))
        except BaseException:
            relay.close()
            raise

    def close(self) -> None:
        super().close()
        self._relay.close()


class _Relay:
    """Serves a store on a unix socket, or waits until it may.

    Args:
        open_store: opens what is served.
        path: of the socket.
    """

    def __init__(self, open_store: Callable[[], Store], path: str) -> None:
        self._open_store = open_store
        self._path = path
        self._lock = _Lock(f"{path}.lock")
        self._closing = threading.Event()
        self._running = ExitStack()
        self._thread = threading.Thread(
            target=self._wait, name="datastream-grpc-relay", daemon=True
        )

    def begin(self) -> None:
        """Serve, or find that another process does."""
        until = monotonic() + START
        while not self._serves():
            if listens(self._path) or monotonic() > until:
                self._thread.start()
                return
            self._closing.wait(PAUSE / 10)

    def close(self) -> None:
        """Stop to serve, and let another process begin."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._running.close()
        self._lock.close()

    def _serves(self) -> bool:
        """Whether this process serves from now on; False while another does."""
        if not self._lock.acquire():
            return False
        with ExitStack() as opened:
            opened.callback(self._lock.release)
            store = opened.enter_context(self._open_store())
            server = serve(store, address_of(self._path))
            opened.callback(server.stop, GRACE)
            Path(self._path).chmod(0o600)
            self._running = opened.pop_all()
        return True

    def _wait(self) -> None:
        while not self._closing.wait(random.uniform(PAUSE / 2, PAUSE)):  # noqa: S311
            try:
                if self._serves():
                    log.info("%s: this process serves it now", self._path)
                    return
            except (DatastreamError, OSError) as error:
                log.error("%s: this process cannot serve it: %s", self._path, error)


class _Lock:
    """Held by one at most, until it is released or its process ends.

    Args:
        path: of a file, which stays.
    """

    def __init__(self, path: str) -> None:
        self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        _locks.add(self)

    def acquire(self) -> bool:
        """Take it, unless somebody has it."""
        return _flock.lock(self._open(), wait=False)

    def release(self) -> None:
        _flock.unlock(self._open())

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _open(self) -> int:
        if self._file is None:
            raise DatastreamError("the lock was closed")
        return self._file


_locks: WeakSet[_Lock] = WeakSet()


def _forked() -> None:
    """A child would hold its parent's lock beyond the parent's end."""
    for lock in list(_locks):
        lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
