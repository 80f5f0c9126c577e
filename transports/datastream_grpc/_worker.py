"""One of several processes that serve a URL, from both sides: `Worker` starts it, `main` is it.

The parent sends a `Job`. The worker answers with None once it listens, or with what went wrong,
and serves until its stdin ends: with the seconds of grace, or with its parent.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic
from typing import IO, Any, NamedTuple

from datastream import DatastreamError
from datastream import open as open_store

START = 30.0
"""Seconds that a worker has to open its store and listen, and to end."""
SWITCH = 0.0005
"""Seconds after which a thread lets others run, a tenth of Python's: those that read and pack large
states would hold up the event loop, and with it all clients."""
LENGTH = 4
"""Bytes that say how long the job is."""


class Job(NamedTuple):
    """What a worker does."""

    url: str
    address: str
    options: Mapping[str, Any]
    """Of `serve`."""
    ids: int
    """The descriptor of the file of `SharedIds`."""
    metrics: int | None = None
    """The port of its metrics."""

    def pickled(self) -> bytes:
        """As it is sent.

        Raises:
            DatastreamError: it holds what only this process has, such as a function.
        """
        try:
            data = pickle.dumps(self)
        except Exception as error:
            raise DatastreamError(
                f"workers are other processes, which cannot be sent these options ({error}); "
                "give files, such as one of tokens, instead of functions"
            ) from error
        return len(data).to_bytes(LENGTH, "big") + data


class Worker:
    """A running worker.

    Args:
        job: what it does, pickled.
        ids: the descriptor that the job names.
    """

    def __init__(self, job: bytes, ids: int) -> None:
        self._began = monotonic()
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(ids,),
            # Ctrl-C is for the parent, which stops the workers.
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._stdin, self._stdout = _pipe(self._process.stdin), _pipe(self._process.stdout)
        with suppress(OSError):
            self._stdin.write(job)
            self._stdin.flush()

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    @property
    def end(self) -> str:
        """How it ended."""
        code = self._process.returncode
        return f"signal {-code}" if code < 0 else f"status {code}"

    def await_start(self) -> None:
        """Wait until it listens.

        Raises:
            DatastreamError, OSError, ImportError: what prevents it.
        """
        timer = threading.Timer(START, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            answer = self._stdout.read()
        finally:
            timer.cancel()
            self._stdout.close()
        if not answer:
            raise DatastreamError(f"it ended, or did not listen within {START:g} s; see its log")
        # Of a process that this one has started.
        error = pickle.loads(answer)  # noqa: S301
        if error is not None:
            raise error

    def await_end(self) -> float:
        """Wait until it ends: the seconds it ran."""
        self._process.wait()
        with suppress(OSError):
            self._stdin.close()
        self._stdout.close()
        return monotonic() - self._began

    def ask_to_end(self, grace: float) -> None:
        """Have it stop, with so many seconds for calls that run; waits for nothing."""
        with suppress(OSError, ValueError):
            self._stdin.write(pickle.dumps(grace))
            self._stdin.close()

    def kill_unless_ended(self, timeout: float) -> None:
        """Give it so many seconds to end."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()


def main() -> None:
    """Serve until stdin ends."""
    from datastream_grpc import _shared_ids
    from datastream_grpc._telemetry import serve_metrics
    from datastream_grpc.server import serve

    answers = os.fdopen(os.dup(1), "wb")
    # What anything prints must not be taken for the answer.
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    job = pickle.loads(_read(sys.stdin.buffer))  # noqa: S301
    sys.setswitchinterval(SWITCH)
    _shared_ids.of_process = _shared_ids.SharedIds(job.ids)
    try:
        if job.metrics is not None:
            serve_metrics(job.metrics)
        store = open_store(job.url)
        server = serve(store, job.address, reuse_port=True, **job.options)
    except (DatastreamError, OSError, ImportError) as error:
        _answer(answers, error)
        return
    grace = 0.0
    with store:
        try:
            _answer(answers, None)
            told = sys.stdin.buffer.read()
            grace = pickle.loads(told) if told else grace  # noqa: S301
        finally:
            server.stop(grace)


def _read(pipe: IO[bytes]) -> bytes:
    return pipe.read(int.from_bytes(pipe.read(LENGTH), "big"))


def _answer(pipe: IO[bytes], error: Exception | None) -> None:
    with suppress(OSError), pipe:
        pipe.write(pickle.dumps(error))


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # noqa: S101
    return pipe


if __name__ == "__main__":
    main()
