"""Who waits for what of a server: messages as they are read, acknowledgements, denials."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import cast

from nats.aio.msg import Msg

from datastream.errors import printable

MOST = 100
"""Subjects of which it is remembered that they are denied."""


class _Taking:
    """Stands where the library expects a future, which it hands messages to as they are read.

    It has no queue, and no task that wakes up for each of them.
    """

    def __init__(self, take: Callable[[Msg], None]) -> None:
        self.set_result = take

    def cancelled(self) -> bool:
        return False


def taking(take: Callable[[Msg], None]) -> asyncio.Future[Msg]:
    """What to give a subscription for its future, so that `take` gets all of its messages."""
    return cast("asyncio.Future[Msg]", _Taking(take))


class Denials:
    """What the user has no right to: the server says so beside, and answers nothing."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def add(self, text: str) -> tuple[str, str]:
        """Take in what the server says: the subject, "" for all, and what is said of it."""
        found = re.search(r'"(.*)"', text)
        # Where one may not subscribe, no request is answered.
        is_publish = found is not None and "publish" in text.lower()
        subject = _plain(found[1]) if found is not None and is_publish else ""
        said = self._texts[subject] = printable(" ".join(text.split()))
        if len(self._texts) > MOST:
            del self._texts[next(iter(self._texts))]
        return subject, said

    def take(self, subject: str) -> str:
        """What was said of a subject, once, since rights may be granted; "" if nothing was."""
        return self._texts.pop(_plain(subject), "") or self._texts.get("", "")


def _plain(subject: str) -> str:
    # The library makes errors lower-case.
    return subject.lower()


class Acks:
    """Who waits for which acknowledgement."""

    def __init__(self) -> None:
        self.prefix = ""
        self._waiting: dict[str, tuple[asyncio.Future[Msg], str]] = {}
        self._count = 0

    def next(self, subject: str) -> tuple[str, asyncio.Future[Msg]]:
        """The subject to reply to, and what gets the reply to a message on `subject`."""
        self._count += 1
        reply = f"{self.prefix}{self._count}"
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._waiting[reply] = future, _plain(subject)
        return reply, future

    def forget(self, reply: str) -> None:
        self._waiting.pop(reply, None)

    def take(self, message: Msg) -> None:
        future, _ = self._waiting.pop(message.subject, (None, ""))
        if future is not None and not future.done():
            future.set_result(message)

    def fail(self, error: Exception, subject: str = "") -> None:
        """None of them comes any more, or none to what was sent to `subject`."""
        failed = [reply for reply, (_, to) in self._waiting.items() if subject in ("", to)]
        for reply in failed:
            future, _ = self._waiting.pop(reply)
            if not future.done():
                future.set_exception(error)
                # Whoever gave up waiting does not fetch it.
                future.exception()
