"""Calls a handler until it succeeds, is refused, or has been tried often enough."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from contextvars import Context, copy_context
from typing import Any, NamedTuple

from datastream.errors import DatastreamError, InvalidValue

LOOP_GRACE = 2.0
"""Seconds for which the end of a loop of our own is waited for."""


class Retry(NamedTuple):
    """How often, and when, a handler that raised is called again.

    A pause is of random length, up to a bound that doubles from `first` to `longest`.
    """

    attempts: int | None = 5
    """Calls in all; None for as many as it takes."""
    first: float = 0.2
    """Seconds, at most, before the second call."""
    longest: float = 30.0
    """Seconds, at most, before any call."""

    @classmethod
    def of(cls, given: Retry | int | None) -> Retry:
        """What `given` stands for.

        Raises:
            InvalidValue: it stands for no number of calls.
        """
        retry = given if isinstance(given, Retry) else cls(given)
        attempts, first, longest = retry
        if attempts is not None and (not isinstance(attempts, int) or attempts < 1):
            raise InvalidValue(f"retry={given!r}: give the number of calls, 1 or more, or None")
        if not 0 <= first <= longest <= threading.TIMEOUT_MAX:
            raise InvalidValue(f"{given!r}: 0 <= first <= longest is needed, in seconds")
        return retry


class Undeliverable(DatastreamError):
    """Raised by a handler: calling it again is of no use, `on_failure` decides at once."""


class Stopped(Exception):
    """The consumer was stopped before the handler succeeded."""


class Failed(Exception):
    """The handler did not succeed, and is not called again."""

    def __init__(self, error: Exception, attempts: int) -> None:
        super().__init__(str(error))
        self.error = error
        self.attempts = attempts


Trouble = Callable[[object, Exception, int], None]
"""Called with the item, the error and the number of calls when a handler will be called again."""


class Caller:
    """Calls one handler, from several threads.

    Args:
        handler: a function, or one that returns an awaitable.
        loop: where coroutines run; None for a loop of our own.
        retry: how often it is called again.
        stopped: set when it must not be any more.
        trouble: called when it will be.
    """

    def __init__(
        self,
        handler: Callable[[Any], object],
        loop: asyncio.AbstractEventLoop | None,
        retry: Retry,
        stopped: threading.Event,
        trouble: Trouble,
    ) -> None:
        self._handler = handler
        self._retry = retry
        self._stopped = stopped
        self._trouble = trouble
        self._context = copy_context()
        self._loop = Loop(loop, self._context)

    def __call__(self, item: object) -> None:
        """Call the handler with `item` until it succeeds.

        Raises:
            Failed: it did not.
            Stopped: it was not tried often enough to know.
        """
        try:
            self._once(item)
        except Exception as error:  # noqa: BLE001
            self._again(item, error)

    def cancel(self) -> bool:
        """Cancel async handlers that run; whether there were any."""
        return self._loop.cancel()

    def close(self) -> None:
        """End what async handlers run on."""
        self._loop.close()

    def _once(self, item: object) -> None:
        # A copy: other threads may be in the context.
        result = self._context.copy().run(self._handler, item)
        if inspect.isawaitable(result):
            self._loop.run(result)

    def _again(self, item: object, error: Exception) -> None:
        # Loaded when something goes wrong: most handlers succeed at once.
        import tenacity

        retry = self._retry
        pause = tenacity.wait_random_exponential(multiplier=retry.first, max=retry.longest)
        made = tenacity.stop_after_attempt(retry.attempts) if retry.attempts else None
        retrying = tenacity.Retrying(
            stop=made or tenacity.stop_never,
            wait=lambda state: max(pause(state), _asked_for(state, retry.longest)),
            retry=tenacity.retry_if_exception(_is_worth_it),
            sleep=self._sleep,
            before_sleep=lambda state: self._trouble(item, _error_of(state), state.attempt_number),
            reraise=True,
        )
        # The first call was made; tenacity counts it as one that raised.
        errors = [error]

        def attempt() -> None:
            if errors:
                raise errors.pop()
            self._once(item)

        try:
            retrying(attempt)
        except Stopped:
            raise
        except Exception as last:
            attempts = retrying.statistics.get("attempt_number", 1)
            raise Failed(last, attempts) from last

    def _sleep(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise Stopped


def _is_worth_it(error: BaseException) -> bool:
    return isinstance(error, Exception) and not isinstance(error, Undeliverable | Stopped)


def _error_of(state: Any) -> Exception:
    error = state.outcome.exception()
    return error if isinstance(error, Exception) else RuntimeError(str(error))


def _asked_for(state: Any, longest: float) -> float:
    """Seconds that the error itself asks for, as a server's Retry-After does."""
    asked = getattr(state.outcome.exception(), "retry_after", 0.0)
    return min(float(asked), longest)


class Loop:
    """The event loop of async handlers.

    Args:
        given: None for one of its own, begun when it is needed.
        context: in which coroutines run.
    """

    def __init__(self, given: asyncio.AbstractEventLoop | None, context: Context) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._own: _OwnLoop | None = None
        self._running: set[Future[Any]] = set()
        self._given = given

    def run(self, awaitable: Awaitable[Any]) -> None:
        """Wait for it.

        Raises:
            Stopped: its loop has ended, or it was cancelled.
            SystemExit, KeyboardInterrupt: it did, on a loop of our own.
        """
        coroutine = _awaited(awaitable) if self._given else _contained(awaitable)
        try:
            future = self._context.copy().run(
                asyncio.run_coroutine_threadsafe, coroutine, self._given or self._of_our_own()
            )
        except RuntimeError as error:
            coroutine.close()
            raise Stopped from error
        self._running.add(future)
        try:
            ended = future.result()
        except (CancelledError, asyncio.CancelledError) as error:
            raise Stopped from error
        finally:
            self._running.discard(future)
        if ended is not None:
            raise ended

    def cancel(self) -> bool:
        """Cancel what runs; whether there was anything."""
        running = list(self._running)
        for future in running:
            future.cancel()
        return bool(running)

    def close(self) -> None:
        self.cancel()
        with self._lock:
            own, self._own = self._own, None
        if own is not None:
            own.loop.call_soon_threadsafe(own.end.set)
            if own.thread is not threading.current_thread():
                own.thread.join(LOOP_GRACE)

    def _of_our_own(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._own is None:
                self._own = _OwnLoop.started()
            return self._own.loop


class _OwnLoop(NamedTuple):
    loop: asyncio.AbstractEventLoop
    end: asyncio.Event
    thread: threading.Thread

    @classmethod
    def started(cls) -> _OwnLoop:
        begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

        async def live() -> None:
            end = asyncio.Event()
            begun.set_result((asyncio.get_running_loop(), end))
            await end.wait()

        thread = threading.Thread(
            target=lambda: asyncio.run(live()), name="datastream consume loop", daemon=True
        )
        thread.start()
        return cls(*begun.result(), thread)


async def _awaited(awaitable: Awaitable[Any]) -> None:
    try:
        await awaitable
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Nobody has cancelled the handler: it is no reason to stop, and a failure like others.
        raise RuntimeError("something that the handler awaited was cancelled") from error


async def _contained(awaitable: Awaitable[Any]) -> BaseException | None:
    """What would end the loop, and leave this handler and all others waited for, is the answer."""
    try:
        await _awaited(awaitable)
    except (SystemExit, KeyboardInterrupt) as error:
        return error
    return None
