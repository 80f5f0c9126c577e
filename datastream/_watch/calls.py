"""Calls of a Source: beside each other, with its errors translated, and none that hangs unseen."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import NoReturn, ParamSpec, TypeVar

from datastream._secrets import hide_in
from datastream.errors import DatastreamError, SourceUnavailable, StoreClosed
from datastream.source import Source

T = TypeVar("T")
P = ParamSpec("P")

HANGS_AFTER = 20.0
"""Seconds after which a call that has not returned makes the status STALE."""
LOCK_TIMEOUT = 30.0
"""Seconds that a call waits for another one, of a Source that is not thread-safe."""

CLOSED = "this store was closed; open it again to go on"
FORKED = "this store was opened before fork; open it anew in the child process"


class Calls:
    """Makes the calls of one Source.

    Args:
        source: what is called.
        name: of the store, for error texts.
    """

    def __init__(self, source: Source, name: str) -> None:
        self._source = source
        self._name = name
        self._turns = None if source.thread_safe else FairLock()
        # When each call that runs counts as hanging, by thread.
        self._due: dict[int, float] = {}
        self._ended = threading.Condition()
        self._closing = False
        self.closed = ""
        """Why no call is made any more; "" while they are."""

    def __call__(
        self, key: str | None, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call `function` of the source; `key` is what it is about, for the error text."""
        if self.closed:
            raise StoreClosed(self.closed)
        thread = threading.get_ident()
        self._due[thread] = monotonic() + HANGS_AFTER
        try:
            if self._turns is None:
                return function(*args, **kwargs)
            with self._turns.held(self._name):
                return function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001
            self.fail(error, key)
        finally:
            self._returned(thread)

    def check_open(self) -> None:
        """Refuse to go on once the store is closed."""
        if self.closed:
            raise StoreClosed(self.closed)

    def one(self, find: Callable[[str], T], key: str) -> T:
        """`find` of one key: the call that is made most, without what the others need."""
        if self._turns is not None:
            return self(key, find, key)
        if self.closed:
            raise StoreClosed(self.closed)
        thread = threading.get_ident()
        self._due[thread] = monotonic() + HANGS_AFTER
        try:
            return find(key)
        except Exception as error:  # noqa: BLE001
            self.fail(error, key)
        finally:
            self._returned(thread)

    def wait(self, timeout: float) -> None:
        """`Source.wait`, which may take that long."""
        thread = threading.get_ident()
        self._due[thread] = monotonic() + timeout + HANGS_AFTER
        try:
            self._source.wait(timeout)
        except Exception as error:  # noqa: BLE001
            self.fail(error, None)
        finally:
            self._returned(thread)

    def translate(self, error: Exception, key: str | None) -> Exception:
        """What leaves the store for an error of the source, with no secret in what caused it."""
        secrets = self._source.secrets
        hide_in(error, secrets)
        is_answer = isinstance(error, DatastreamError)
        if self.closed and (not is_answer or isinstance(error, SourceUnavailable)):
            return StoreClosed(self.closed)
        if is_answer:
            return error
        translated = self._source.translate(error, key)
        if isinstance(translated, DatastreamError | ImportError):
            hide_in(translated, secrets)
            return translated
        unexpected = Unexpected(
            f"{self._name}: unexpected {type(error).__name__}: {error}; this is a bug in the "
            "source, please report it with its traceback"
        )
        hide_in(unexpected, secrets)
        return unexpected

    def hangs(self) -> bool:
        """Whether a call is overdue."""
        now = monotonic()
        return any(due < now for due in list(self._due.values()))

    def await_end(self, timeout: float) -> bool:
        """After closing: wait until no call runs, but those of this thread."""
        self._closing = True
        me = threading.get_ident()
        with self._ended:
            return self._ended.wait_for(lambda: not (self._due.keys() - {me}), timeout)

    def fail(self, error: Exception, key: str | None) -> NoReturn:
        """Raise what leaves the store for an error of the source."""
        translated = self.translate(error, key)
        if translated is error:
            raise error
        raise translated from hide_in(error, self._source.secrets)

    def _returned(self, thread: int) -> None:
        self._due.pop(thread, None)
        if self._closing:
            with self._ended:
                self._ended.notify_all()


class FairLock:
    """A lock that is given in the order in which it was asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Event] = deque()

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Hold it; `name` is the store's, for the error text.

        Raises:
            SourceUnavailable: those before did not return in time.
        """
        self._acquire(name)
        try:
            yield
        finally:
            self._release()

    def _acquire(self, name: str) -> None:
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            turn = threading.Event()
            self._waiting.append(turn)
        if turn.wait(LOCK_TIMEOUT):
            return
        with self._lock:
            if turn.is_set():
                return
            self._waiting.remove(turn)
        raise SourceUnavailable(
            f"{name}: an earlier call has not returned for {LOCK_TIMEOUT:g} s, and this source "
            "takes one at a time; try again"
        )

    def _release(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._taken = False


class Unexpected(DatastreamError):
    """A Source raised what it does not declare."""
