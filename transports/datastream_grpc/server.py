"""`serve`: a store on the network with one call."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any, NamedTuple, cast

import grpc
from grpc import aio
from reactivex.abc import DisposableBase

from datastream import DatastreamError, KeyNotFound, State, Status, Store
from datastream_grpc import _loop, _reflection
from datastream_grpc._access import Access
from datastream_grpc._connection import SERVICE
from datastream_grpc._health import Health
from datastream_grpc._limits import Limits, check_limits
from datastream_grpc._open_files import most_connections
from datastream_grpc._rules import Authorize, Rules
from datastream_grpc._security import (
    Path,
    Tls,
    TokenCheck,
    check_exposure,
    server_credentials,
    token_check,
)
from datastream_grpc._servicer import Servicer
from datastream_grpc._unix import is_unix, lasting, unix_trouble

MAX_MESSAGE = 4 << 20
"""Bytes a client may send at once, gRPC's usual limit."""
HEARTBEAT = 20.0
"""Seconds of silence after which a client is asked whether it is there."""
LEAST_HEARTBEAT = 0.1
MAX_PENDING = 20_000
"""Calls that wait to be looked at; of more, some are refused, and of twice as many, all."""
MAX_PORT = 65_535
MOST_BYTES = (1 << 31) - 1
"""The largest number that an option of gRPC holds."""
UNARY_CALLS = 1_000
"""Of one connection, beside its streams."""
LIMITS = Limits()
NOT_OF_WORKERS = frozenset(("store", "address", "workers", "reuse_port", "metrics"))
"""Arguments of `serve` that are not for each of its workers as they are."""
HEALTH_KEY = "health"
"""The key that is asked for to find out whether the backend answers; it need not exist."""
FIRST_LOOK = 0.5
"""Seconds that `serve` gives a backend which was not asked before."""
LOOK_FIRST, LOOK_MOST = 0.2, 2.0
"""Seconds, at most, between two looks at a backend in trouble, at first and later."""


class Server(AbstractContextManager["Server"]):
    """A running server. Keep it: when the last reference goes, it stops.

    Made by `serve`; a context manager that stops on leaving. The store stays open.
    """

    def __init__(self, store: Store, address: str, settings: Settings) -> None:
        given = settings.authorize
        # Rules of a file or a URL are opened here, and closed with the server.
        self._rules = Rules(given) if isinstance(given, str | os.PathLike) else None
        access = Access(self._rules or cast(Authorize | None, given))
        self._loop = _loop.shared.acquire()
        # Held until stopped. Not an Event: Ctrl-C within its `wait` can leave it locked for `set`.
        self._running = threading.Lock()
        self._running.acquire()
        self._inner = _Inner(store, address, settings, access, self._loop)
        try:
            port = _loop.run(self._loop, self._inner.start())
        except BaseException:
            _loop.shared.release()
            self._close_rules()
            raise
        self.address = _with_port(address, port)
        """Where it listens, ``host:port`` with the real port where 0 was asked for."""
        self._process = os.getpid()
        self._finalizer = weakref.finalize(
            self, _abandon, self._loop, self._inner, process=self._process
        )

    @property
    def clients(self) -> tuple[str, ...]:
        """The addresses of those who watch now, as gRPC writes them: ``ipv4:127.0.0.1:40968``."""
        return self._inner.clients()

    def stop(self, grace: float = 2.0) -> None:
        """End the streams with UNAVAILABLE, give running calls `grace` seconds, and stop.

        Idempotent; not to be called from the event loop that runs a client of this server. In a
        process that was forked from the server's it does nothing.
        """
        if self._finalizer.detach() is not None and os.getpid() == self._process:
            try:
                _loop.run(self._loop, self._inner.stop(grace))
            finally:
                _loop.shared.release()
                self._running.release()
                self._close_rules()

    def _close_rules(self) -> None:
        if self._rules is not None:
            self._rules.close()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the server was stopped; False if `timeout` seconds were not enough."""
        stopped = self._running.acquire(timeout=-1 if timeout is None else timeout)
        if stopped:
            self._running.release()
        return stopped

    def __exit__(self, *error: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Server {self.address}>"

    def _repr_html_(self) -> str:
        from datastream.notebook._html import server_card

        return server_card(self.address, self.clients, self._inner.store)


class Settings(NamedTuple):
    """How a server runs; see `serve`."""

    max_message_size: int
    heartbeat: float
    tls: Tls | None
    tokens: Path | TokenCheck | None
    read_only: bool
    authorize: str | os.PathLike[str] | Authorize | None
    limits: Limits
    reuse_port: bool


def serve(
    store: Store | str,
    address: str = "127.0.0.1:8080",
    *,
    max_message_size: int = MAX_MESSAGE,
    limits: Limits = LIMITS,
    heartbeat: float = HEARTBEAT,
    tls: Tls | None = None,
    tokens: str | os.PathLike[str] | Callable[[str], bool | str] | None = None,
    authorize: str | os.PathLike[str] | Authorize | None = None,
    read_only: bool = False,
    insecure: bool = False,
    reuse_port: bool = False,
    workers: int = 1,
    metrics: int | None = None,
) -> Server:
    """Expose `store` over gRPC; returns as soon as it listens.

    Runs on an event loop of its own, so it works in a script, an asyncio program and a notebook
    cell alike. On an address that other machines reach, it wants `tls` and proof of who asks:
    `tokens`, or certificates of clients.

    Args:
        store: stays yours: close it after the server. Or a URL, which `workers` processes open and
            serve, each for itself; one that ends is started again.
        address: ``host:port``, port 0 for a free one, or ``unix:path``.
        max_message_size: bytes a client may send in one message.
        limits: what else clients may ask for.
        heartbeat: seconds of silence after which a client is asked whether it is there; it has half
            as long to answer.
        tls: files of certificate and key; with `Tls.client_roots`, clients have to show one too.
        tokens: file of bearer tokens, one a line, each after the name of who has it, if it is to
            have one; read again when it changes, which ends the streams of those that are gone. Or
            what says in a thread whether a token is one, or returns that name. Every call has to
            bring one, but those for the health.
        authorize: who may read and write which keys: `Rules`, the file or URL of them, or what
            decides otherwise, see `Authorize`. What may not be read is as if it were not there.
            None allows everything.
        read_only: True refuses every write.
        insecure: True serves other machines without `tls` and proof all the same.
        reuse_port: True shares the port with other processes that say so; the system divides
            connections between them.
        workers: processes on one port, for a URL.
        metrics: port on which the first of these serves what it counts, as `serve_metrics` does in
            other programs; each has one of its own, the next numbers.

    Raises:
        DatastreamError: `heartbeat` is too short, `max_message_size`, `metrics` or a limit is none,
            a file cannot be read, other machines reach the address without `tls` or proof,
            processes cannot serve that, such as ``memory:``, or this one was forked from one that
            had served, or awaited a store.
        OSError: the address is in use, or not this machine's.
    """
    options = {name: value for name, value in locals().items() if name not in NOT_OF_WORKERS}
    if isinstance(store, str):
        from datastream_grpc.workers import Workers

        return Workers(store, address, workers, options, metrics)
    if workers != 1:
        raise DatastreamError("workers open a store of their own; give serve its URL")
    if metrics is not None:
        raise DatastreamError("metrics= is for workers; here, call serve_metrics(port)")
    _loop.shared.check()
    if not heartbeat >= LEAST_HEARTBEAT:
        raise DatastreamError(
            f"heartbeat={heartbeat}: give at least {LEAST_HEARTBEAT} seconds, such as 20"
        )
    if not isinstance(max_message_size, int) or not 1 <= max_message_size <= MOST_BYTES:
        raise DatastreamError(
            f"max_message_size={max_message_size}: give bytes, from 1 to {MOST_BYTES}"
        )
    check_limits(limits)
    address = _checked(address)
    if not insecure:
        check_exposure(address, tls=tls, tokens=tokens)
    settings = Settings(
        max_message_size, heartbeat, tls, tokens, read_only, authorize, limits, reuse_port
    )
    return Server(store, address, settings)


class _Inner:
    """What lives on the loop."""

    def __init__(
        self,
        store: Store,
        address: str,
        settings: Settings,
        access: Access,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.store = store
        self._address = address
        self._settings = settings
        self._access = access
        self._servicer = Servicer(
            store,
            settings.max_message_size,
            settings.limits,
            self._access,
            address,
            loop=loop,
            read_only=settings.read_only,
        )
        self._health = Health((SERVICE,), self._servicer.meter)
        self._status: DisposableBase | None = None
        self._server: aio.Server | None = None
        self._state = State.CONNECTING
        self._asked = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    def clients(self) -> tuple[str, ...]:
        return tuple(sorted({peer for peer, _ in self._servicer.subscribing.watchers.copy()}))

    async def start(self) -> int:
        tls, tokens = self._settings.tls, self._settings.tokens
        credentials = None if tls is None else server_credentials(tls)
        checks = () if tokens is None else (token_check(tokens),)
        server = aio.server(
            interceptors=checks,
            options=_options(self._settings),
            # Beyond the limit, calls are refused with a reason; beyond this, without.
            maximum_concurrent_rpcs=2 * self._settings.limits.calls,
        )
        server.add_generic_rpc_handlers((self._servicer.handlers(),))
        server.add_generic_rpc_handlers(_reflection.handlers(self._health, (SERVICE,)))
        try:
            port = _listen(server, self._address, credentials)
        except RuntimeError as error:
            await server.stop(None)
            raise OSError(f"cannot listen on {self._address}: {_why_not(self._address)}") from error
        self._servicer.metrics.attributes["server"] = _with_port(self._address, port)
        self._follow_status()
        # So that the health is known when the first client asks.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._asked.wait(), FIRST_LOOK)
        await server.start()
        self._server = server
        return port

    async def stop(self, grace: float) -> None:
        self._access.close()
        if self._status is not None:
            self._status.dispose()
        if self._looking is not None:
            self._looking.cancel()
        self._health.stop()
        await self._servicer.streams.stop()
        if self._server is not None:
            await self._server.stop(grace)
        # Only now: others than those that were given up have their grace.
        await self._servicer.finish()

    def _follow_status(self) -> None:
        loop = asyncio.get_running_loop()

        def changed(status: Status) -> None:
            # The loop may have ended before the store did.
            with suppress(RuntimeError):
                asyncio.run_coroutine_threadsafe(self._set_health(status), loop)

        self._status = self.store.status.subscribe(changed)

    async def _set_health(self, status: Status) -> None:
        self._state = status.state
        self._servicer.descriptions.tell()
        self._health.set(serving=status.state is State.READY)
        if status.state is not State.CONNECTING:
            self._asked.set()
        self._look_if_needed()

    def _look_if_needed(self) -> None:
        """Ask the backend until it answers: while nobody watches, the store does not.

        A balancer that goes by the health sends no call that could find out either.
        """
        idle = self._looking is None or self._looking.done()
        if idle and self._state not in (State.READY, State.CLOSED):
            self._looking = asyncio.get_running_loop().create_task(self._look())

    async def _look(self) -> None:
        pause = LOOK_FIRST
        while self._state not in (State.READY, State.CLOSED):
            # That it fails is the status of the store, which all see.
            with suppress(Exception):
                with suppress(KeyNotFound):
                    await self.store.threads.call(self.store.entry, HEALTH_KEY)
                # It answers: what watchers wait for need not wait for the poller's next attempt.
                self.store.refresh()
            # At random, so that many servers of one backend do not come back as a herd.
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311
            pause = min(2 * pause, LOOK_MOST)


def _options(settings: Settings) -> tuple[tuple[str, int], ...]:
    silence = int(settings.heartbeat * 1000)
    return (
        ("grpc.max_receive_message_length", settings.max_message_size),
        # Beyond that, and some unary calls, a connection's streams wait to be taken.
        ("grpc.max_concurrent_streams", settings.limits.streams + UNARY_CALLS),
        ("grpc.max_allowed_incoming_connections", most_connections(settings.limits.connections)),
        # Two servers on one port each get some of the clients.
        ("grpc.so_reuseport", int(settings.reuse_port)),
        # Clients that come back all at once, after a restart, are many more than gRPC's thousand.
        ("grpc.server.max_pending_requests", MAX_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", 2 * MAX_PENDING),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # A client that vanished without a word is found and its streams released.
        ("grpc.keepalive_time_ms", silence),
        ("grpc.keepalive_timeout_ms", silence // 2),
        # Else gRPC waits a minute for an answer, whatever the time-out above says.
        ("grpc.http2.ping_timeout_ms", silence // 2),
    )


def _why_not(address: str) -> str:
    """Why gRPC, which does not say, cannot listen there."""
    if is_unix(address):
        return unix_trouble(address) or "the socket cannot be made"
    return "in use, or not an address of this machine; choose another, or port 0 for a free one"


def _listen(server: Any, address: str, credentials: grpc.ServerCredentials | None) -> int:
    if credentials is None:
        return int(server.add_insecure_port(address))
    return int(server.add_secure_port(address, credentials))


def _checked(address: str) -> str:
    """An address to listen on: gRPC takes a port modulo 65,536, and no text that it cannot encode.

    Raises:
        OSError: it is none.
    """
    is_text = isinstance(address, str) and address.isprintable()
    address = lasting(address) if is_text else address
    if is_text and is_unix(address) and (trouble := unix_trouble(address)):
        raise OSError(f"cannot listen on {address}: {trouble}")
    if not is_text or not (":" in address or address.startswith("unix")):
        raise OSError(f"cannot listen on {address!r}: it is no address; write host:port")
    port = address.rpartition(":")[2]
    if port.isdigit() and int(port) > MAX_PORT:
        raise OSError(f"cannot listen on {address}: a port is at most {MAX_PORT}")
    return address


def _with_port(address: str, port: int) -> str:
    host, colon, _ = address.rpartition(":")
    is_named = address.startswith(("unix:", "unix-abstract:"))
    return f"{host}:{port}" if colon and not is_named else address


def _abandon(loop: asyncio.AbstractEventLoop, inner: _Inner, *, process: int) -> None:
    """`stop` for a garbage collector, which may run on any thread, the loop's included."""
    if os.getpid() != process:
        # A child has none of it.
        return

    def stop() -> None:
        try:
            _loop.run(loop, inner.stop(0))
        finally:
            _loop.shared.release()

    if threading.main_thread().is_alive():
        threading.Thread(target=stop, name="datastream-grpc-stop").start()


__all__: list[Any] = ["Server", "serve"]
