"""Several processes that serve one URL on one port, supervised and restarted."""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from datastream import DatastreamError
from datastream.url import parse
from datastream_grpc._shared_ids import IdsFile
from datastream_grpc._worker import START, Job, Worker
from datastream_grpc.server import MAX_PORT, Server

AGAIN_FIRST, AGAIN_MOST = 0.1, 5.0
"""Seconds, at most, until a worker that ended is started again: at first, and if it ends again."""
STEADY = 10.0
"""Seconds after which the end of a worker counts as the first one."""

log = logging.getLogger("datastream.grpc")


class Workers(Server):
    """Running processes that serve one URL. Keep it: when the last reference goes, they stop.

    Made by `serve` of a URL; a context manager that stops on leaving. They end with this process,
    however that ends.
    """

    def __init__(
        self,
        url: str,
        address: str,
        number: int,
        options: Mapping[str, Any],
        metrics: int | None = None,
    ) -> None:
        # Nothing of a server in this process is made.
        self._shown = _check(url, address, number)
        ports = _metrics_ports(metrics, number)
        self._reserved = _reserve(address)
        port = self._reserved.getsockname()[1]
        self.address = f"{address.rpartition(':')[0]}:{port}"
        """Where they listen, ``host:port`` with the real port where 0 was asked for."""
        self._ids = ids = IdsFile()
        try:
            job = Job(url, self.address, options, ids.number)
            jobs = [job._replace(metrics=port).pickled() for port in ports]
            self._crew = _Crew(jobs, ids, self._shown)
            self._process = os.getpid()
            self._unless_stopped = weakref.finalize(
                self, _abandon, self._crew, self._reserved, ids, process=self._process
            )
            self._crew.start()
        except BaseException:
            ids.close()
            self._reserved.close()
            raise

    @property
    def pids(self) -> list[int]:
        """Of the processes that run now."""
        return self._crew.pids

    def stop(self, grace: float = 2.0) -> None:
        """End the streams with UNAVAILABLE, give running calls `grace` seconds, and stop all."""
        if self._unless_stopped.detach() is not None and os.getpid() == self._process:
            self._crew.stop(grace)
            self._reserved.close()
            self._ids.close()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until they were stopped; False if `timeout` seconds were not enough."""
        return self._crew.stopped.wait(timeout)

    def __repr__(self) -> str:
        return f"<Workers {self.address} of {self._shown}>"


class _Crew:
    """The processes, each with a thread that starts it again when it ends.

    Args:
        jobs: of each, pickled.
        ids: of their writes.
        what: they serve, for the log.
    """

    def __init__(self, jobs: Sequence[bytes], ids: IdsFile, what: str) -> None:
        self._jobs = jobs
        self._ids = ids
        self._what = what
        self.stopped = threading.Event()
        self._stopping = threading.Event()
        # One that is started while all are to end must not be missed.
        self._lock = threading.Lock()
        self._workers = [Worker(job, ids.number) for job in jobs]
        self._threads = [
            threading.Thread(
                target=self._keep, args=(index,), name="datastream-grpc-worker", daemon=True
            )
            for index in range(len(jobs))
        ]

    @property
    def pids(self) -> list[int]:
        return [worker.pid for worker in self._workers if worker.is_running]

    def start(self) -> None:
        """Wait until all listen.

        Raises:
            DatastreamError, OSError, ImportError: one does not; the others end.
        """
        try:
            for worker in self._workers:
                worker.await_start()
        except BaseException:
            self.ask_to_end(0.0)
            self._await_ends(0.0)
            raise
        for thread in self._threads:
            thread.start()

    def ask_to_end(self, grace: float) -> None:
        """Have all stop; waits for nothing."""
        self._stopping.set()
        for worker in self._workers:
            worker.ask_to_end(grace)

    def stop(self, grace: float) -> None:
        with self._lock:
            self.ask_to_end(grace)
        self._await_ends(grace)
        for thread in self._threads:
            thread.join()
        self.stopped.set()

    def _await_ends(self, grace: float) -> None:
        for worker in self._workers:
            worker.kill_unless_ended(grace + START)
            worker.await_end()

    def _keep(self, index: int) -> None:
        pause = AGAIN_FIRST
        while True:
            worker = self._workers[index]
            lasted = worker.await_end()
            if self._stopping.is_set():
                return
            log.error("%s: a worker ended with %s; starting another", self._what, worker.end)
            pause = AGAIN_FIRST if lasted > STEADY else min(2 * pause, AGAIN_MOST)
            # At random, so that workers of one backend do not come back as a herd.
            self._stopping.wait(random.uniform(pause / 2, pause))  # noqa: S311
            if not self._start_anew(index):
                return

    def _start_anew(self, index: int) -> bool:
        """Start another worker; False if all are to end."""
        with self._lock:
            if self._stopping.is_set():
                return False
            worker = self._workers[index] = Worker(self._jobs[index], self._ids.number)
        try:
            worker.await_start()
        except (DatastreamError, OSError, ImportError) as error:
            log.error("%s: a worker cannot start: %s", self._what, error)
        return True


def _abandon(crew: _Crew, reserved: socket.socket, ids: IdsFile, *, process: int) -> None:
    """`stop` for a garbage collector: waits for nothing."""
    if os.getpid() != process:
        # The workers are the parent's, and a child has their pipes, too.
        return
    crew.ask_to_end(0.0)
    reserved.close()
    ids.close()


def _check(url: str, address: str, number: int) -> str:
    """Refuse what processes cannot serve together; the URL as it may be shown."""
    location = parse(url)
    if location.scheme == "memory":
        raise DatastreamError(
            f"{location.shown} is the memory of one process, so that workers would each have "
            "their own; serve it without workers (in code: the store, not its URL)"
        )
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise DatastreamError(f"workers={number}: give a number from 1")
    if address.startswith("unix") or not hasattr(socket, "SO_REUSEPORT"):
        raise DatastreamError(f"{address}: processes share no such address; give host:port")
    return location.shown


def _metrics_ports(first: int | None, number: int) -> Sequence[int | None]:
    """The port of the metrics of each process.

    Not 0, any free one: nobody would know which, and the next is 1.
    """
    if first is None:
        return [None] * number
    last = MAX_PORT + 1 - number
    if not isinstance(first, int) or not 1 <= first <= last:
        raise DatastreamError(f"metrics={first}: give a port from 1 to {last}")
    return range(first, first + number)


def _reserve(address: str) -> socket.socket:
    """A socket that has the port for the workers' alone; it listens to nobody.

    Raises:
        OSError: the port is in use, or there is no such host.
    """
    host, _, port = address.rpartition(":")
    try:
        _bound(host, int(port), shared=False).close()
        return _bound(host, int(port), shared=True)
    except (OSError, ValueError) as error:
        raise OSError(
            f"cannot listen on {address}: {error}; choose another, or port 0 for a free one"
        ) from error


def _bound(host: str, port: int, *, shared: bool) -> socket.socket:
    family, _, _, _, place = socket.getaddrinfo(
        host.strip("[]") or "::", port, type=socket.SOCK_STREAM
    )[0]
    bound = socket.socket(family, socket.SOCK_STREAM)
    # Alone, this fails where anybody listens; shared, it does not where we do.
    option = socket.SO_REUSEPORT if shared else socket.SO_REUSEADDR
    try:
        bound.setsockopt(socket.SOL_SOCKET, option, 1)
        bound.bind(place)
    except OSError:
        bound.close()
        raise
    return bound
