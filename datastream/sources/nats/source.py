"""A NATS JetStream bucket as a Source."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from time import monotonic
from typing import Annotated, Any, ParamSpec, TypeVar

from datastream.entry import Capability, Entry, Revision
from datastream.errors import DatastreamError, SourceUnavailable
from datastream.selection import Selection, Selects
from datastream.source import (
    WELL,
    WRITING,
    Feature,
    Health,
    Reading,
    Source,
    Write,
    Written,
)
from datastream.sources._common.wake import jittered
from datastream.sources.nats.bucket import Bucket, Info, check_bucket, missing
from datastream.sources.nats.connection import GRACE, Connection
from datastream.sources.nats.errors import NO_STREAM, ApiError, explain
from datastream.sources.nats.filters import ALL, filters_of
from datastream.sources.nats.keys import to_subject
from datastream.sources.nats.loop import Loop
from datastream.sources.nats.options import Proof, place_of
from datastream.sources.nats.past import Past, PastSource, replay, revisions
from datastream.sources.nats.reader import Reader
from datastream.sources.nats.tail import Tail
from datastream.sources.nats.writer import Writer
from datastream.url import Limits, Location, Seconds, checks_options, configured

PAUSE = 0.05
"""Seconds for which `wait` lasts while there is nothing to wait for."""
ATTEMPTS = 3
"""Times `timeout` for which a call is made again: a cluster may take ten seconds for a leader."""

log = logging.getLogger("datastream")

T = TypeVar("T")
P = ParamSpec("P")
Replicas = Annotated[int, Limits(1, 5)]
History = Annotated[int, Limits(1, 64)]
Age = Annotated[float, Limits(0, 1_000_000_000, " seconds")]
Bytes = Annotated[int, Limits(0, 1 << 62)]


class NatsSource(Source):
    """A Source over a key-value bucket of NATS JetStream.

    Connects at once to any of the servers, and again to any of them whenever the connection was
    lost. All there is of asyncio runs on a thread of its own.

    Args:
        servers: ``nats://host:port`` of some servers of the system.
        bucket: its name.
        create: make the bucket if it is not there.
        replicas: of a bucket that is made: servers that keep a copy; 3 survives the loss of one.
        history: of a bucket that is made: values kept of each key.
        ttl: of a bucket that is made: seconds after which each key expires; 0 for never.
        storage: of a bucket that is made: "file" or "memory".
        max_bytes: of a bucket that is made: bytes it may take; 0 for any number.
        readonly: refuse writes.
        domain: JetStream domain; "" for the servers' own.
        timeout: seconds for one request, and for connecting.
        interval: seconds between two looks at how the bucket stands while it is watched.
        user, password: what the client proves itself with.
        token: likewise, or what returns it for each connection.
        token_file: file of the token, read again for each connection.
        nkey: file of an nkey's seed.
        credentials: file of a user's JWT and seed, ``.creds``.
        tls: the server proves itself to an authority of the system, or of `roots`.
        roots: file of the authorities to trust, in PEM.
        certificate, key: files of what the client proves itself with, in PEM.

    Raises:
        DatastreamError: there is no such bucket, or options exclude each other.
        Denied: the servers do not accept these credentials.
        SourceUnavailable: no server answers.
    """

    @checks_options
    def __init__(
        self,
        servers: Sequence[str],
        bucket: str,
        *,
        create: bool = False,
        replicas: Replicas = 1,
        history: History = 1,
        ttl: Age = 0.0,
        storage: str = "file",
        max_bytes: Bytes = 0,
        readonly: bool = False,
        domain: str = "",
        timeout: Seconds = 5.0,
        interval: Seconds = 5.0,
        user: str = "",
        password: str = "",
        token: str | Callable[[], str] = "",
        token_file: str = "",
        nkey: str = "",
        credentials: str = "",
        tls: bool = False,
        roots: str = "",
        certificate: str = "",
        key: str = "",
    ) -> None:
        self._where = f"nats://{servers[0].removeprefix('nats://')}/{bucket}"
        if storage not in ("file", "memory"):
            raise DatastreamError(f"{self._where}: storage is file or memory, not {storage!r}")
        proof = Proof(
            user, password, token, token_file, nkey, credentials, tls, roots, certificate, key
        )
        self._interval = interval
        self._due = 0.0
        self._news = threading.Event()
        self._lost: Exception | None = None
        connection = Connection(
            list(servers),
            proof,
            where=self._where,
            timeout=timeout,
            domain=domain,
            changed=self._changed,
        )
        settings = {
            "replicas": replicas,
            "history": history,
            "ttl": ttl,
            "storage": storage,
            "max_bytes": max_bytes,
        }
        self._connection = connection
        self._bucket = Bucket(connection, bucket)
        patience = ATTEMPTS * timeout
        self._reader = Reader(self._bucket, patience)
        self._tail = Tail(self._reader, patience, self._news)
        self._writer = Writer(self._reader, self._where, patience)
        self._loop = Loop(f"datastream nats {bucket}")
        try:
            info = self._run(self._open, settings if create else None)
            check_bucket(info, self._where)
        except BaseException as error:
            self.close()
            if isinstance(error, ApiError) and error.number == NO_STREAM:
                raise missing(self._where) from None
            if isinstance(error, Exception):
                raise explain(error, self._where) from error
            raise
        self.features = _features(info, readonly=readonly)

    def capabilities(self) -> Sequence[Capability]:
        entries = self._patiently(self._reader.state, ALL).entries
        return [Capability(entry.key, entry.value_type) for entry in entries]

    def read(self, selection: Selects, since: str | None) -> Reading:
        """By a consumer of its own; for the poller, from the one that goes on.

        Who resumes passes the `Selection` of its own, the poller everybody's union, which is none.
        """
        filters = filters_of(selection)
        if since is None:
            return self._patiently(self._reader.state, filters)
        if isinstance(selection, Selection):
            return self._patiently(self._reader.changes, filters, since)
        arrived = self._tail.arrived(filters, since)
        return arrived or self._patiently(self._tail.after, filters, since)

    def get(self, key: str) -> Entry | None:
        return self._patiently(self._reader.get, to_subject(key))

    def history(self, key: str) -> Iterator[Revision]:
        """As in `HasHistory`."""
        yield from revisions(self._past((to_subject(key),)))

    def at(self, point: str | datetime) -> Source:
        """As in `HasAt`."""
        return PastSource(self._past(ALL), point)

    def replay(self, selection: Selects, since: str | datetime | None) -> Iterator[Reading]:
        """As in `HasReplay`."""
        yield from replay(self._past(filters_of(selection)), since)

    def compared(self, position: str, *, same: bool) -> None:
        """Later readings tell the difference from it again.

        A cursor at that position is not honoured anyway: its bucket has lost keys, or all.
        """
        self._tail.published(position)

    def _past(self, filters: Sequence[str]) -> Past:
        info, messages = self._patiently(self._reader.past, filters)
        return Past(info, messages, self._where)

    def reach(self) -> None:
        self._patiently(self._reader.reach)

    def wait(self, timeout: float | None) -> None:
        due = max(0.0, self._due - monotonic()) if self._tail.is_running else PAUSE
        self._news.wait(due if timeout is None else min(due, timeout))
        self._news.clear()
        if monotonic() >= self._due:
            self._check()

    def wake(self) -> None:
        self._news.set()

    def write(self, writes: Sequence[Write]) -> Written:
        return Written(self._run(self._writer.write, writes))

    def translate(self, error: Exception, key: str | None) -> Exception:
        return explain(error, self._where, key)

    def release(self) -> None:
        self._run(self._tail.release)

    def close(self) -> None:
        self._news.set()
        try:
            self._run(self._end)
        except Exception as error:  # noqa: BLE001
            log.debug("closing a source of NATS raised %s", type(error).__name__)
        self._loop.close()

    def _run(
        self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return self._loop.run(function, *args, **kwargs)

    def _patiently(
        self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return self._loop.run(self._reader.patiently, partial(function, *args, **kwargs))

    def _check(self) -> None:
        """Whether the bucket is there; its answer ends what was said of an outage."""
        self._due = monotonic() + jittered(self._interval)
        try:
            info = self._run(self._tail.check)
        except Exception as error:
            found = explain(error, self._where)
            if isinstance(found, SourceUnavailable):
                self.health = Health(found)
                return
            raise
        if self.health.error is not None or self.health.degraded != _degraded(info):
            self.health = Health(degraded=_degraded(info)) if _degraded(info) else WELL

    # On the loop.

    def _changed(self) -> None:
        """The connection was lost, or found again."""
        self._due = 0.0
        self._news.set()

    async def _open(self, settings: dict[str, Any] | None) -> Info:
        if settings is not None:
            await self._bucket.create(**settings)
        return await self._reader.info()

    async def _end(self) -> None:
        await self._tail.release()
        with suppress(TimeoutError):
            # A server that hangs removes them by itself, later.
            async with asyncio.timeout(GRACE):
                await self._reader.close()
        await self._connection.close()


def _features(info: Info, *, readonly: bool) -> frozenset[Feature]:
    found = {Feature.TYPES, Feature.LOG, Feature.TRANSIENT}
    if info.history > 1:
        found |= {Feature.HISTORY, Feature.AT, Feature.REPLAY}
    if not (readonly or info.is_closed):
        found |= (WRITING if info.is_atomic else WRITING - {Feature.ATOMIC}) | {Feature.MESSAGES}
        found |= {Feature.TTL} if info.tells_of_ttl else set()
    return frozenset(found)


def _degraded(info: Info) -> str:
    if info.makes_room:
        return "keys that make room for new ones are noticed late: the bucket discards old messages"
    if info.expires_in_silence:
        return "keys that expire are noticed late: the bucket has no limit markers"
    return ""


def open_nats(location: Location, **options: Any) -> NatsSource:
    """The Source of ``nats://HOST:PORT,HOST:PORT/BUCKET``."""
    place = place_of(location)
    given = {"user": place.user, "password": place.password} if place.user else {}
    factory = partial(NatsSource, place.servers, place.bucket)
    return configured(factory, location, {**given, **options})
