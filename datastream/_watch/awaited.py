"""Calls that a coroutine awaits, without a thread for each where the source needs none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar

from datastream._watch.calls import Calls
from datastream._watch.patience import apatiently, named
from datastream._watch.publisher import Publisher
from datastream._watch.subscription import selected, state_of
from datastream.entry import Batch, Entry
from datastream.selection import Selection
from datastream.source import HasAsyncCalls, Reading, Source, Write, Written

T = TypeVar("T")
P = ParamSpec("P")

FEW_WRITES = 64
"""More, made at once, hold up an event loop also where the source never blocks."""


class Threads(Protocol):
    """How a coroutine makes a blocking call."""

    async def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Make one of the source."""
        ...

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Make one of any kind."""
        ...


class Blocking(Protocol):
    """What is blocking all the same."""

    def get(self, key: str) -> Entry | None:
        """The entry of one key."""
        ...

    def snapshot(self, selection: Selection) -> Batch:
        """The state of the selected keys."""
        ...

    def write(self, writes: Sequence[Write]) -> Sequence[Entry]:
        """Write and offer the changes."""
        ...

    def offer(self, writes: Sequence[Write], written: Written, version: int) -> None:
        """Offer the changes of what is written."""
        ...

    def report(self, answer: Callable[..., T], /, *args: Any) -> T:
        """Have how `answer` went be the status."""
        ...

    def report_write(self, answer: Callable[..., T], /, *args: Any) -> T:
        """The same of a write."""
        ...


class Awaited:
    """Calls from coroutines.

    Args:
        source: what is called.
        calls: make its calls.
        publisher: knows who watches.
        blocking: for what cannot be awaited.
    """

    def __init__(
        self, source: Source, calls: Calls, publisher: Publisher, blocking: Blocking
    ) -> None:
        self.source = source if isinstance(source, HasAsyncCalls) else None
        """None if every call takes a thread."""
        self._calls = calls
        self._publisher = publisher
        self._blocking = blocking

    async def get(self, key: str, threads: Threads) -> Entry | None:
        """The entry of one key."""
        if self.source is None:
            return await threads.call(self._blocking.get, key)
        return await self._answer(self._blocking.report, key, self.source.aget, key)

    async def snapshot(self, selection: Selection, threads: Threads) -> Batch:
        """The state of the selected keys."""
        reading: Reading | None = None
        if self.source is not None:
            report = self._blocking.report
            reading = await self._answer(report, None, self.source.aread, selection)
        if reading is None or not reading.entries:
            # Where there seems to be nothing, watchers may know better.
            return await threads.call(self._blocking.snapshot, selection)
        return state_of(selected(reading, selection), selection)

    async def write(
        self, writes: Sequence[Write], wait: float, threads: Threads
    ) -> Sequence[Entry]:
        """Write, and offer the changes to the watchers of this store.

        Args:
            wait: seconds for which it is tried again while the backend is away.
            threads: for what cannot be awaited.
        """
        if not wait:
            return await self._write(writes, threads)
        return await apatiently(partial(self._write, named(writes), threads), wait)

    async def _write(self, writes: Sequence[Write], threads: Threads) -> Sequence[Entry]:
        publisher = self._publisher
        with publisher.remembering():
            version = publisher.version
            answer = await self._written(writes)
            if answer is None:
                call = threads.call if len(writes) <= FEW_WRITES else threads.run
                return await call(self._blocking.write, writes)
            written = answer if isinstance(answer, Written) else Written(answer)
            is_watched = publisher.position is not None and publisher.concerns(written.entries)
            if is_watched and not publisher.await_published(written.entries, 0):
                await threads.run(self._blocking.offer, writes, written, version)
        return written.entries

    async def _written(self, writes: Sequence[Write]) -> Written | Sequence[Entry] | None:
        if self.source is None:
            return None
        report = self._blocking.report_write
        return await self._answer(report, writes[0].key, self.source.awrite, writes)

    async def _answer(
        self,
        report: Callable[..., T],
        key: str | None,
        function: Callable[P, Awaitable[T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call the source, and `report` how that goes."""
        self._calls.check_open()
        try:
            answer = await function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001
            return report(self._calls.fail, error, key)
        return report(lambda: answer)
