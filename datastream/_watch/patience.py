"""Writes that wait out an outage."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from datastream.errors import KeyNotFound, RevisionConflict, SourceUnavailable
from datastream.source import Write

FIRST, MOST = 0.05, 2.0
"""Seconds that lie between two attempts at most, at first and later."""

T = TypeVar("T")


def named(writes: Sequence[Write]) -> tuple[Write, ...]:
    """The same with an id, by which a backend that knows ids does what comes again only once."""
    name = next((write.id for write in writes if write.id), "") or os.urandom(8).hex()
    return tuple(write._replace(id=name) for write in writes)


def patiently(attempt: Callable[[], T], wait: float, stopped: threading.Event) -> T:
    """What `attempt` returns, tried again while the backend is away.

    Args:
        attempt: writes.
        wait: seconds within which an attempt may begin.
        stopped: ends the pauses; the attempt after that is to say why.
    """
    import tenacity

    retrying = tenacity.Retrying(sleep=tenacity.sleep_using_event(stopped), **_settings(wait))
    result: T = retrying(_Attempts(attempt))
    return result


async def apatiently(attempt: Callable[[], Awaitable[T]], wait: float) -> T:
    """`patiently`, from a coroutine."""
    import tenacity

    attempts = _Attempts(attempt)
    async for attempted in tenacity.AsyncRetrying(**_settings(wait)):
        with attempted, attempts:
            return await attempt()
    raise AssertionError("tenacity gives the result or raises")


def _settings(wait: float) -> dict[str, Any]:
    import tenacity

    return {
        "retry": tenacity.retry_if_exception_type(SourceUnavailable),
        # At random, so that many writers do not come back as a herd.
        "wait": tenacity.wait_random_exponential(FIRST, MOST),
        "stop": tenacity.stop_before_delay(wait),
        "reraise": True,
    }


class _Attempts:
    """Attempts of one write. Once one got no answer, a conflict may be with that one."""

    def __init__(self, attempt: Callable[[], Any]) -> None:
        self._attempt = attempt
        self._unanswered = False

    def __call__(self) -> Any:
        with self:
            return self._attempt()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RevisionConflict | KeyNotFound) and self._unanswered:
            raise type(error)(
                f"{error}; an earlier attempt got no answer and may have been done, so that this "
                "may be its own work"
            ) from error
        self._unanswered = self._unanswered or isinstance(error, SourceUnavailable)
