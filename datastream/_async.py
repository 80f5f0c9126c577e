"""The async twins of a store's blocking calls."""

# `self` is a Store: what each of them calls is there.
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from datastream.aio import Threads
from datastream.entry import Batch, Capability, Entry, Revision
from datastream.source import Write

if TYPE_CHECKING:
    from datastream.binding import Binding
    from datastream.store import Store
    from datastream.view import View

V = TypeVar("V")

_END: Any = object()


class AsyncTwins:
    """``await store.aget("k")`` is ``store.get("k")`` without holding up the event loop.

    Each takes and raises what its twin does.
    """

    threads: Threads

    async def aget(self: Store, key: str, default: Any = None) -> Any:  # type: ignore[misc]
        """`Store.get`."""
        return await self.threads.call(self.get, key, default)

    async def aentry(self: Store, key: str) -> Entry:  # type: ignore[misc]
        """`Store.entry`."""
        return await self.threads.call(self.entry, key)

    async def asnapshot(  # type: ignore[misc]
        self: Store,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
    ) -> dict[str, Entry]:
        """`Store.snapshot`."""
        return await self.threads.call(self.snapshot, *keys, match=match, exclude=exclude)

    async def asnapshot_batch(  # type: ignore[misc]
        self: Store,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
    ) -> Batch:
        """`Store.snapshot_batch`."""
        return await self.threads.call(self.snapshot_batch, *keys, match=match, exclude=exclude)

    async def acapabilities(self: Store) -> Sequence[Capability]:  # type: ignore[misc]
        """`Store.capabilities`."""
        return await self.threads.call(self.capabilities)

    async def aput(  # type: ignore[misc]
        self: Store,
        key: str,
        value: Any,
        *,
        value_type: str | None = None,
        expect: str | None = None,
        updated_at: datetime | None = None,
        message: str = "",
        author: str = "",
        wait: float = 0.0,
    ) -> Entry:
        """`Store.put`."""
        return await self.threads.call(
            self.put,
            key,
            value,
            value_type=value_type,
            expect=expect,
            updated_at=updated_at,
            message=message,
            author=author,
            wait=wait,
        )

    async def aput_many(  # type: ignore[misc]
        self: Store,
        values: Mapping[str, Any],
        *,
        expect: Mapping[str, str] | None = None,
        message: str = "",
        author: str = "",
        wait: float = 0.0,
    ) -> list[Entry]:
        """`Store.put_many`."""
        return await self.threads.call(
            self.put_many, values, expect=expect, message=message, author=author, wait=wait
        )

    async def adelete(  # type: ignore[misc]
        self: Store,
        key: str,
        *,
        expect: str | None = None,
        missing_ok: bool = False,
        message: str = "",
        author: str = "",
        wait: float = 0.0,
    ) -> None:
        """`Store.delete`."""
        await self.threads.call(
            self.delete,
            key,
            expect=expect,
            missing_ok=missing_ok,
            message=message,
            author=author,
            wait=wait,
        )

    async def awrite(self: Store, *writes: Write, wait: float = 0.0) -> Sequence[Entry]:  # type: ignore[misc]
        """`Store.write`."""
        return await self.threads.call(self.write, *writes, wait=wait)

    async def apop(self: Store, key: str, *default: Any) -> Any:  # type: ignore[misc]
        """`Store.pop`."""
        return await self.threads.call(self.pop, key, *default)

    async def asetdefault(self: Store, key: str, default: Any = None) -> Any:  # type: ignore[misc]
        """`Store.setdefault`."""
        return await self.threads.call(self.setdefault, key, default)

    async def aclear(self: Store) -> None:  # type: ignore[misc]
        """`Store.clear`."""
        await self.threads.call(self.clear)

    async def aflush(self: Store, timeout: float | None = None) -> bool:  # type: ignore[misc]  # noqa: ASYNC109
        """`Store.flush`."""
        return await self.threads.run(self.flush, timeout)

    async def ahistory(self: Store, key: str) -> AsyncIterator[Revision]:  # type: ignore[misc]
        """`Store.history`, as an async iterator."""
        revisions = await self.threads.call(self.history, key)
        while (revision := await self.threads.call(next, revisions, _END)) is not _END:
            yield revision

    async def aat(self: Store, point: str | datetime) -> Store:  # type: ignore[misc]
        """`Store.at`."""
        return await self.threads.call(self.at, point)

    async def aview(  # type: ignore[misc]
        self: Store,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        as_: Callable[[Any], V] | None = None,
        cache: str | PathLike[str] | None = None,
        wait: float = 0.0,
    ) -> View[V]:
        """`Store.view`."""
        call = partial(self.view, *keys, match=match, exclude=exclude, cache=cache, wait=wait)
        return await self.threads.run(partial(cast(Any, call), as_=as_))

    async def abind(  # type: ignore[misc]
        self: Store, model: type[V], place: str = "", *, wait: float = 0.0
    ) -> Binding[V]:
        """`Store.bind`."""
        return await self.threads.run(partial(self.bind, model, place, wait=wait))

    async def aclose(self: Store) -> None:  # type: ignore[misc]
        """`Store.close`."""
        # Not on the store's threads, which closing ends.
        await Threads.run_once(self.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await cast("Store", self).aclose()
