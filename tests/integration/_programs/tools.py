"""Other processes, and waiting for events with a time limit."""

from __future__ import annotations

import queue
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest
from reactivex import Observable

from datastream import Entry, Operation, State, Status, Store

TIMEOUT = 30.0
"""Seconds after which something that was to happen counts as not happening."""
STARTS = 90.0
"""Seconds that a program gets to start or to end, which a busy disk holds up."""
PROGRAMS = Path(__file__).parent
_END = object()


class Child:
    """One of the programs in this folder. It ends when its stdin does, so none is left behind."""

    def __init__(self, program: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAMS / f"{program}.py"), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._lines: queue.Queue[Any] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(_END)

    def line(self, timeout: float = STARTS) -> str:
        """The next line of its stdout."""
        found = self._lines.get(timeout=timeout)
        assert found is not _END, "the program ended"
        return str(found)

    def rest(self, timeout: float = STARTS) -> Iterator[str]:
        """Every line until it ends."""
        while (found := self._lines.get(timeout=timeout)) is not _END:
            yield found

    def ask(self, line: str) -> str:
        assert self.process.stdin
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.line()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.close()

    def wait(self, timeout: float = STARTS) -> int:
        return self.process.wait(timeout)

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(STARTS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self._reader.join(TIMEOUT)
            self.process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Follower:
    """What a subscriber knows: the decoded value of every key, as told by `watch`."""

    def __init__(self, store: Store, *keys: str, match: str | Iterable[str] = ()) -> None:
        self._changed = threading.Condition()
        self.state: dict[str, Any] = {}
        self.entries: list[Entry] = []
        self.problems: list[str] = []
        self.completed = threading.Event()
        watch = store.watch(*keys, match=match)
        self.subscription = watch.subscribe(self._take, on_completed=self._complete)

    def _take(self, entry: Entry) -> None:
        with self._changed:
            self.entries.append(entry)
            if entry.operation is Operation.DELETE:
                self.state.pop(entry.key, None)
            else:
                self.state[entry.key] = entry.value
            self._changed.notify_all()

    def _complete(self) -> None:
        self.completed.set()

    def wait(self, condition: Callable[[dict[str, Any]], object], timeout: float = TIMEOUT) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self.state), timeout):
                raise AssertionError(f"never happened; the state is {_short(self.state)}")

    def wait_state(self, expected: dict[str, bytes], timeout: float = TIMEOUT) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self.state == expected, timeout):
                raise AssertionError(f"{_short(self.state)} instead of {_short(expected)}")

    def wait_key(self, key: str, value: bytes | None, timeout: float = TIMEOUT) -> None:
        self.wait(lambda state: state.get(key) == value, timeout)

    def dispose(self) -> None:
        self.subscription.dispose()


class Statuses:
    """Every status a store reports."""

    def __init__(self, store: Store) -> None:
        self._changed = threading.Condition()
        self.seen: list[Status] = []
        self.subscription = store.status.subscribe(self._take)

    def _take(self, status: Status) -> None:
        with self._changed:
            self.seen.append(status)
            self._changed.notify_all()

    @property
    def states(self) -> list[State]:
        return [status.state for status in self.seen]

    def wait(self, *states: State, timeout: float = TIMEOUT) -> Status:
        """Until the newest status is one of `states`."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.seen[-1].state in states, timeout):
                raise AssertionError(f"never {states}: {self.seen}")
            return self.seen[-1]

    def wait_degraded(self, text: str) -> None:
        """Until the newest status is READY, degraded by `text`, or by nothing if that is empty."""

        def is_so() -> bool:
            newest = self.seen[-1]
            fits = text in newest.degraded if text else not newest.degraded
            return newest.state is State.READY and fits

        with self._changed:
            if not self._changed.wait_for(is_so, TIMEOUT):
                raise AssertionError(f"never degraded by {text!r}: {self.seen}")


class Collected:
    """All that an Observable gives."""

    def __init__(self, observable: Observable[Any]) -> None:
        self._changed = threading.Condition()
        self.got: list[Any] = []
        self.subscription = observable.subscribe(self._take)

    def _take(self, item: Any) -> None:
        with self._changed:
            self.got.append(item)
            self._changed.notify_all()

    def wait(self, condition: Callable[[list[Any]], object], what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self.got and condition(self.got), TIMEOUT):
                raise AssertionError(f"never happened: {what}; got {self.got[-3:]}")


def eventually(condition: Callable[[], object], what: str, timeout: float = TIMEOUT) -> None:
    """Wait for something that notifies nobody, such as a thread's end."""
    pause = threading.Event()
    for _ in range(int(timeout / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError(f"never happened: {what}")


def never(condition: Callable[[], object], what: str, seconds: float) -> None:
    """Give something that must not happen the time to happen."""
    pause = threading.Event()
    for _ in range(int(seconds / 0.01)):
        assert not condition(), f"happened: {what}"
        pause.wait(0.01)


needs_shell = pytest.mark.skipif(
    shutil.which("sqlite3") is None,
    reason="needs the sqlite3 shell, as of apt-get install sqlite3",
)


@contextmanager
def database(path: Path, *statements: str) -> Iterator[sqlite3.Connection]:
    """A plain connection in autocommit mode, as any other program would have."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=TIMEOUT)
    try:
        for statement in statements:
            connection.execute(statement)
        yield connection
    finally:
        connection.close()


def _short(state: dict[str, Any]) -> str:
    text = repr(state)
    return text if len(text) < 600 else f"{text[:600]}… ({len(state)} keys)"
