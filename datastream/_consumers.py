"""What a store does for those who handle its changes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, cast, overload
from weakref import WeakSet

from datastream._watches import StoreWatches, described
from datastream.entry import Batch, Entry
from datastream.selection import Selection

if TYPE_CHECKING:
    from datastream._consume.running import Run
    from datastream.consume import Consumer, Retry
    from datastream.store import Store


class StoreConsumers(StoreWatches):
    """The part of a `Store` whose changes are handled."""

    _consumers: WeakSet[Run]

    @overload
    def consume(
        self,
        handler: Callable[[Entry], Awaitable[object] | object],
        *keys: str,
        place: str | PathLike[str] | Store | None,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        name: str = "consumer",
        initial: bool = False,
        retry: Retry | int | None = 5,
        on_failure: Literal["stop", "skip"] | Store = "stop",
        concurrency: int = 1,
        batch: Literal[False] = False,
        conflate: bool = False,
        moved: bool = False,
    ) -> Consumer: ...
    @overload
    def consume(
        self,
        handler: Callable[[Batch], Awaitable[object] | object],
        *keys: str,
        place: str | PathLike[str] | Store | None,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        name: str = "consumer",
        initial: bool = False,
        retry: Retry | int | None = 5,
        on_failure: Literal["stop", "skip"] | Store = "stop",
        concurrency: Literal[1] = 1,
        batch: Literal[True],
        conflate: bool = False,
        moved: bool = False,
    ) -> Consumer: ...
    def consume(
        self,
        handler: Callable[[Any], Awaitable[object] | object],
        *keys: str,
        place: str | PathLike[str] | Store | None,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        name: str = "consumer",
        initial: bool = False,
        retry: Retry | int | None = 5,
        on_failure: Literal["stop", "skip"] | Store = "stop",
        concurrency: int = 1,
        batch: bool = False,
        conflate: bool = False,
        moved: bool = False,
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> Consumer:
        """Call `handler` with each change, at least once, also across restarts; see `Consumer`.

        The changes of one key come in order, one after the other. The place is saved after the
        handler has returned, so what was being handled when the process ended comes again.

        Args:
            handler: takes an `Entry`, DELETEs too; a function or a coroutine function, which runs
                on the event loop that runs here, or else on one of its own. It fails by raising.
            keys, match, exclude: as for `watch`.
            place: where the consumer keeps how far it got: the path of a file, a store, or None
                to begin anew in each process.
            name: of the consumer, told from others that keep their places or letters there.
            initial: a consumer that was never here first handles the present state.
            retry: calls in all for one change, None for ever, or a `Retry` with pauses.
            on_failure: what follows the last one: "stop" ends the consumer before that change;
                "skip" logs it; a store keeps it as a dead letter, and it goes on.
            concurrency: how many keys are handled at a time.
            batch: the handler takes a `Batch` of what was committed together.
            conflate: of what waits, only the newest entry of each key is handled.
            moved: the store that this place is about has another URL now, and a new log or none.

        Raises:
            InvalidKey, InvalidValue, StoreClosed, Denied: as for `watch`.
            Taken: another consumer uses this place.
            DatastreamError: no place can be kept there, or it is about another store.
        """
        from datastream._consume.running import Plan
        from datastream.consume import Retry, consume

        self._core.check_open()
        selection = Selection.of(*keys, match=match, exclude=exclude)
        plan = Plan(
            store=cast("Store", self),
            selection=selection,
            handler=handler,
            loop=_loop or _running_loop(),
            name=name,
            what=f"{self.name}, {name}, {described(selection, 'consume')}",
            retry=Retry(),
            on_failure=on_failure,
            whole=batch,
            initial=initial,
            conflate=conflate,
            concurrency=concurrency,
        )
        return consume(plan, place, retry, moved=moved)

    async def aconsume(
        self, handler: Callable[[Any], Awaitable[object] | object], *keys: str, **options: Any
    ) -> Consumer:
        """`consume`, whose first read of the backend does not hold up the event loop."""
        loop = asyncio.get_running_loop()
        call: Any = partial(self.consume, handler, *keys, _loop=loop, **options)
        return cast("Consumer", await self.threads.run(call))


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
