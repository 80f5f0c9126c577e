"""The async twins of a store's blocking calls."""

# `self` is a Store: what each of them calls is there.
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence, Sized
from datetime import datetime
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeVar, cast

from datastream import codecs
from datastream._closing import AsyncClosing
from datastream._watches import check_seconds
from datastream._writes import of_delete, of_many
from datastream.aio import Threads
from datastream.entry import Batch, Capability, Entry, Revision
from datastream.errors import KeyNotFound
from datastream.selection import Selection, check_key
from datastream.snapshot import Snapshot
from datastream.source import Write

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

    from datastream.binding import Binding
    from datastream.store import Store
    from datastream.view import View

V = TypeVar("V")

FEW_BYTES, FEW_ITEMS = 64 << 10, 64
"""A value that has more is encoded and decoded in a thread."""

_END: Any = object()


class AsyncTwins(AsyncClosing):
    """``await store.aget("k")`` is ``store.get("k")`` without holding up the event loop.

    Each takes and raises what its twin does.
    """

    threads: Threads

    async def aget(self: Store, key: str, default: Any = None) -> Any:  # type: ignore[misc]
        """`Store.get`."""
        if self._core.awaited.source is None:
            return await self.threads.call(self.get, key, default)
        try:
            entry = await self.aentry(key)
        except KeyNotFound:
            return default
        if _is_quick(entry.value):
            return entry.decode()
        return await self.threads.run(entry.decode)

    async def aentry(self: Store, key: str) -> Entry:  # type: ignore[misc]
        """`Store.entry`."""
        check_key(key)
        entry = await self._core.awaited.get(key, self.threads)
        if entry is None:
            raise self._missing(key)
        return entry

    async def asnapshot(  # type: ignore[misc]
        self: Store,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
    ) -> Snapshot:
        """`Store.snapshot`."""
        batch = await self.asnapshot_batch(*keys, match=match, exclude=exclude)
        if len(batch) <= FEW_ITEMS:
            return Snapshot(batch.entries)
        return await self.threads.run(Snapshot, batch.entries)

    async def asnapshot_batch(  # type: ignore[misc]
        self: Store,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
    ) -> Batch:
        """`Store.snapshot_batch`."""
        selection = Selection.of(*keys, match=match, exclude=exclude)
        return await self._core.awaited.snapshot(selection, self.threads)

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
        ttl: float | None = None,
    ) -> Entry:
        """`Store.put`."""
        if not (wait or (self._core.awaited.source and _is_quick(value))):
            return await self.threads.call(
                self.put,
                key,
                value,
                value_type=value_type,
                expect=expect,
                updated_at=updated_at,
                message=message,
                author=author,
                ttl=ttl,
            )
        data, name = codecs.encode(value, value_type, key=key)
        write = Write(key, data, name, expect, updated_at, message, author, ttl=ttl)
        return (await self.awrite(write, wait=wait))[0]

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
        if _is_quick(values):
            writes = of_many(values, expect, message, author)
        else:
            writes = await self.threads.run(of_many, values, expect, message, author)
        return list(await self.awrite(*writes, wait=wait))

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
        write = of_delete(key, expect, message, author, missing_ok=missing_ok)
        await self.awrite(write, wait=wait)

    async def awrite(self: Store, *writes: Write, wait: float = 0.0) -> Sequence[Entry]:  # type: ignore[misc]
        """`Store.write`."""
        if len(writes) > FEW_ITEMS:
            await self.threads.run(self._check.all, writes)
        else:
            self._check.all(writes)
        check_seconds(wait, "wait")
        self._core.check_open()
        return await self._core.awaited.write(writes, wait, self.threads) if writes else ()

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

    async def ato_pandas(  # type: ignore[misc]
        self: Store,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
    ) -> pd.DataFrame:
        """`Store.to_pandas`."""
        return await self.threads.run(partial(self.to_pandas, *keys, match=match, exclude=exclude))

    async def ato_polars(  # type: ignore[misc]
        self: Store,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
    ) -> pl.DataFrame:
        """`Store.to_polars`."""
        return await self.threads.run(partial(self.to_polars, *keys, match=match, exclude=exclude))

    async def aat(self: Store, point: str | datetime) -> Store:  # type: ignore[misc]
        """`Store.at`."""
        return await self.threads.call(self.at, point)

    async def aview(  # type: ignore[misc]
        self: Store,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        as_: Callable[[Any], V] | type[V] | None = None,
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


def _is_quick(value: Any) -> bool:
    """Whether to encode or decode it would not hold up an event loop."""
    few = FEW_BYTES if isinstance(value, str | bytes) else FEW_ITEMS
    return not isinstance(value, Sized) or len(value) <= few
