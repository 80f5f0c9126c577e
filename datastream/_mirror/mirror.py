"""`mirror` and `Mirror`: keeping one store like another."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

from datastream._closing import AsyncClosing, Closing
from datastream._mirror.diff import keep_types, opened
from datastream._mirror.light import LightSource, can_stream, has_large
from datastream._mirror.loops import (
    Edge,
    check_again,
    concerned,
    edges_into,
    identity,
    listed,
    running,
    words,
)
from datastream._mirror.plan import OnConflict, Rules
from datastream._mirror.progress import InFile, InTarget, Nowhere, Place, Progress, default_name
from datastream._mirror.target import Target
from datastream._mirror.worker import Job, Worker
from datastream._observable import StatusObservable
from datastream._threads import join
from datastream._watch.status import StatusHolder
from datastream._watches import check_seconds
from datastream.aio import Threads
from datastream.errors import (
    InvalidValue,
    ReadOnly,
    SourceUnavailable,
    StoreClosed,
    Unsupported,
)
from datastream.selection import Selection
from datastream.source import Feature, Write
from datastream.status import State
from datastream.store import Store

CLOSE_TIMEOUT = 10.0
"""Seconds that `close` gives the write which runs."""


class MirrorCounts(NamedTuple):
    """What a mirror has done since it was started."""

    puts: int
    deletes: int
    batches: int
    """Transactions, commits or calls in which they were written."""
    conflicts: int
    """Keys that others had written, and which `on_conflict` left to them."""


class Mirror(Closing, AsyncClosing):
    """A mirror that runs on a thread of its own, until it is closed. Made by `mirror`.

    Args:
        worker: does the work.
        status: how it goes.
        stack: closed at the end.
    """

    def __init__(self, worker: Worker, status: StatusHolder, stack: ExitStack, what: str) -> None:
        self._worker = worker
        self._target = worker.target
        self._threads = worker.target.store.threads
        self._status = status
        self._stack = stack
        self._what = what
        self._thread = threading.Thread(target=self._run, name=f"datastream {what}", daemon=True)
        self._thread.start()

    @property
    def status(self) -> StatusObservable:
        """How it goes: ``status.current`` now, and as an Observable.

        CONNECTING until both stores were compared and the target is like the source; READY; STALE
        while one of them is away, which is retried for ever; FAILED where somebody has to decide,
        with the reason in ``error``, and looked at again whenever something changes; CLOSED.
        ``degraded`` names what the target cannot hold.
        """
        return StatusObservable(self._status)

    @property
    def lag(self) -> float:
        """Seconds since the oldest change that is known here and not in the target; 0.0 if none."""
        return self._worker.lag

    @property
    def counts(self) -> MirrorCounts:
        """What it has done so far."""
        target, conflicts = self._target, self._worker.ledger.conflicts
        return MirrorCounts(target.puts, target.deletes, target.batches, conflicts)

    @property
    def refused(self) -> Mapping[str, str]:
        """Keys that the target cannot hold as they are, and why; they are left out."""
        return dict(self._target.refused)

    @property
    def altered(self) -> Mapping[str, str]:
        """Keys whose value or type the target spells otherwise, and how."""
        return dict(self._target.altered)

    @property
    def planned(self) -> tuple[Write, ...]:
        """What a dry run would write, once it is `ready`; a write without a value is a delete."""
        return self._worker.planned

    def ready(self, timeout: float | None = None) -> bool:
        """Wait until the target is like the source.

        Args:
            timeout: seconds; None waits as long as it takes.

        Returns:
            False if it is not after `timeout`.

        Raises:
            DatastreamError: the reason why somebody has to decide.
            StoreClosed: the mirror was closed before.
        """
        if timeout is not None:
            check_seconds(timeout, "timeout")
        with self._worker.moved:
            return self._worker.moved.wait_for(self._is_ready, timeout)

    def flush(self, timeout: float | None = None) -> bool:
        """Look at both stores now, and wait until all that they hold is dealt with.

        Args:
            timeout: seconds; None waits as long as it takes.

        Returns:
            False if it is not after `timeout`.

        Raises:
            DatastreamError: a store is away, or somebody has to decide.
        """
        if timeout is not None:
            check_seconds(timeout, "timeout")
        before = self._worker.attempt
        self._worker.catch_up()
        with self._worker.moved:
            return self._worker.moved.wait_for(partial(self._is_done, before), timeout)

    def refresh(self) -> None:
        """Try again now, instead of when a pause is over, and look at both stores."""
        self._worker.refresh()

    def close(self) -> None:
        """Stop; the target stays as it is, and another mirror goes on from there. Idempotent."""
        self._worker.stop()
        if threading.current_thread() is not self._thread:
            join(self._thread, CLOSE_TIMEOUT)

    async def aready(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """`ready`, without holding up the event loop."""
        return await self._threads.run(self.ready, timeout)

    async def aflush(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109
        """`flush`, likewise."""
        return await self._threads.run(self.flush, timeout)

    async def aclose(self) -> None:
        """`close`, likewise."""
        await Threads.run_once(self.close)

    def __repr__(self) -> str:
        return f"<Mirror {self._what} {self._status.current.state}>"

    def _run(self) -> None:
        try:
            self._worker.run()
        finally:
            self._stack.close()
            self._status.close()
            self._worker.notify()

    def _is_ready(self) -> bool:
        status = self._status.current
        if status.state is State.FAILED and status.error is not None:
            raise status.error
        if status.state is State.CLOSED:
            raise StoreClosed(f"{self._what} was closed; start another")
        return status.state is State.READY

    def _is_done(self, before: int) -> bool:
        """Whether there is nothing to do; raises if that failed after an attempt."""
        if self._worker.failed_attempt > before:
            return self._is_ready()
        is_closed = self._status.current.state is State.CLOSED
        return (is_closed or self._worker.is_idle) and self._is_ready()


def mirror(
    a: Store | str,
    b: Store | str,
    *keys: str,
    match: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    delete: bool = True,
    dry_run: bool = False,
    on_conflict: OnConflict = None,
    delete_limit: int | float = 0.5,
    place: str | os.PathLike[str] | None = None,
    name: str = "",
    stream: bool | None = None,
) -> Mirror:
    """Keep `b` like `a`: bring it there, then follow every change, deletes included.

    It runs on a thread of its own and retries for ever; `Mirror.status` says how it goes. What
    was committed together is written together where `b` has transactions. It survives restarts
    of both stores and its own: how far it is, is kept in `b` itself, or in a file.

    What has to be decided is not guessed: the status is FAILED, with the reason, until something
    changes. That is so if `b` holds what neither `a` nor this mirror has put there, if others write
    to it later, and if more would be deleted than `delete_limit` allows.

    Args:
        a: the source, a store or a URL; a store that is opened here is closed with the mirror.
        b: the target, likewise.
        keys: exact keys, and prefixes ending in "/"; with neither keys nor match, everything.
        match: globs: ``*`` within a segment, ``**`` across.
        exclude: globs of what to leave out.
        delete: remove from `b` what `a` does not hold; False leaves it there.
        dry_run: write nothing; `Mirror.planned` has what would be written.
        on_conflict: who wins where others wrote to `b`: "source" puts back what `a` holds,
            "target" leaves such keys alone from then on. A callable gets a `Conflict` and returns
            one of the two, or an `Entry` to be written. None refuses.
        delete_limit: most deletes at once, as a number of keys, or as a share (a float) of those
            in `b`; a share always allows ten. Only 1.0 lets an empty source empty `b`.
        place: a file for how far it is; None keeps that in `b`, at a key below
            ``_datastream/mirror/``.
        name: of the mirror, for that key; by default made from source and keys.
        stream: copy values in pieces, so that none is ever whole in memory: between directories,
            buckets and other filesystems; with git, one value at a time. Both are then looked at
            every second, and a restart compares them anew. None does so if there is a value of
            over 32 MiB at the start.

    Raises:
        DatastreamError: a store cannot be opened, or `a` is itself a mirror of `b`, directly or
            through others.
        ReadOnly: `b` cannot be written.
    """
    selection = Selection.of(*keys, match=match, exclude=exclude)
    _check(on_conflict, delete_limit)
    with ExitStack() as stack:
        source, store = opened(stack, a), opened(stack, b)
        if Feature.WRITE not in store.features and not dry_run:
            raise ReadOnly(f"{store.name} can only be read, so it cannot be the target of a mirror")
        types = keep_types(source, store)
        streams = _streams(source, store, selection, stream)
        into = edges_into(source)
        begun = _begun(source, store, selection, into)
        edge = Edge(begun.source, begun.target, concerned(selection, begun.words))
        stack.enter_context(running(edge, into))
        look_round = partial(_look_round, source, edge)
        kept = _place(place, store, name or default_name(begun))
        what = f"mirror {source.name} → {store.name}"
        status = StatusHolder(what, store._dispatcher)
        if streams:
            source, store = _light(stack, source, store)
        job = Job(
            source,
            Target(store, types=types),
            selection,
            Rules(delete, on_conflict, delete_limit, types),
            Nowhere(kept) if dry_run else kept,
            begun,
            look_round,
            dry_run,
        )
        worker = Worker(job, status)
        return Mirror(worker, status, stack.pop_all(), what)


def _check(on_conflict: OnConflict, delete_limit: int | float) -> None:
    if not (on_conflict in (None, "source", "target") or callable(on_conflict)):
        raise InvalidValue(
            f'on_conflict={on_conflict!r}: give "source", "target", a callable or None'
        )
    is_number = isinstance(delete_limit, int | float) and not isinstance(delete_limit, bool)
    most = 1.0 if isinstance(delete_limit, float) else delete_limit
    if not is_number or not 0 <= delete_limit <= most:
        raise InvalidValue(
            f"delete_limit={delete_limit!r}: give a number of keys, or a share from 0.0 to 1.0"
        )


def _streams(source: Store, target: Store, selection: Selection, stream: bool | None) -> bool:
    if stream is False:
        return False
    able = can_stream(source) and can_stream(target)
    if stream and not able:
        raise Unsupported(
            "stream=True needs directories, buckets, git or other filesystems on both sides; "
            f"{source.name} or {target.name} is none"
        )
    try:
        return able and (bool(stream) or has_large(source, selection))
    except SourceUnavailable:
        return False


def _light(stack: ExitStack, source: Store, target: Store) -> tuple[Store, Store]:
    """Stores of digests over both, which copy in pieces."""
    origin = LightSource(source)
    read = stack.enter_context(Store(origin, name=source.name))
    return read, stack.enter_context(Store(LightSource(target, origin), name=target.name))


def _begun(source: Store, target: Store, selection: Selection, into: Iterable[Edge]) -> Progress:
    mine = identity(source)
    kept, translation = listed(selection), words(source, target)
    return Progress(mine, identity(target), kept, origins=_origins(mine, into), words=translation)


def _origins(mine: str, into: Iterable[Edge]) -> tuple[str, ...]:
    return tuple(sorted({edge.source for edge in into} - {mine}))


def _look_round(source: Store, edge: Edge) -> tuple[str, ...]:
    """The stores from which the source of a mirror that runs is mirrored by now.

    Raises:
        Loop: its target is one of them.
    """
    into = edges_into(source)
    check_again(edge, into)
    return _origins(edge.source, into)


def _place(path: str | os.PathLike[str] | None, target: Store, name: str) -> Place:
    return InTarget(target, name) if path is None else InFile(path)
