"""NATS servers out of a wheel: one alone, or a cluster; killed, paused and started again."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any, Self
from urllib.request import urlopen

import nats
import psutil

from tests.servers.postgres import free_port

PROGRAM = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or "nats-server"
STARTS = 90.0
"""Seconds that a server gets to start; three of them on a busy core take many to elect a leader."""


class Server:
    """One server with JetStream in a directory of its own.

    Args:
        config: more of its configuration.
        jetstream: more of what concerns JetStream.
        cluster: of its routes, "" for a server alone.
    """

    def __init__(
        self, config: str = "", *, jetstream: str = "", name: str = "", cluster: str = ""
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="datastream-nats-"))
        self.port = free_port()
        self.monitor = free_port()
        self.name = name or f"n-{secrets.token_hex(4)}"
        self._config = config
        self._jetstream = jetstream
        self.cluster = cluster
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"nats://{self.address}"

    @property
    def process(self) -> psutil.Process:
        """What it runs in."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def start(self, *, ready: bool = True) -> Self:
        path = self.folder / "server.conf"
        path.write_text(
            f"server_name: {self.name}\nhost: 127.0.0.1\nport: {self.port}\n"
            f'http: "127.0.0.1:{self.monitor}"\nmax_payload: 8MB\n'
            f'jetstream {{ store_dir: "{self.folder / "js"}"\n{self._jetstream} }}\n'
            f"{self.cluster}\n{self._config}\n"
        )
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([PROGRAM, "-c", path], stdout=log, stderr=log)
        if ready:
            try:
                self.await_ready()
            except BaseException:
                print((self.folder / "log").read_text())
                self.close()
                raise
        return self

    def await_ready(self) -> None:
        await_true(self._is_ready, f"the server started: {self.folder / 'log'}")

    def _is_ready(self) -> bool:
        ended = self._process is None or self._process.poll() is not None
        assert not ended, f"the server ended, its port may be taken: {self.folder / 'log'}"
        try:
            with urlopen(f"http://127.0.0.1:{self.monitor}/healthz", timeout=2) as answer:
                return bool(json.load(answer)["status"] == "ok")
        except (OSError, HTTPException):
            return False

    def ask(self, page: str) -> Any:
        """What the server's monitor says."""
        with urlopen(f"http://127.0.0.1:{self.monitor}/{page}", timeout=5) as answer:
            return json.load(answer)

    def connections(self) -> int:
        return int(self.ask("connz")["num_connections"])

    def consumers(self, bucket: str) -> int:
        accounts = self.ask("jsz?accounts=true&streams=true")["account_details"]
        streams = [stream for account in accounts for stream in account["stream_detail"]]
        return sum(s["state"]["consumer_count"] for s in streams if s["name"] == f"KV_{bucket}")

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """As a crash would."""
        self._signal(signal.SIGKILL)
        self._wait()

    def stop(self) -> None:
        if self._process is not None:
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGTERM)
            self._wait()

    def close(self) -> None:
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            os.kill(self._process.pid, number)

    def _wait(self) -> None:
        assert self._process is not None
        self._process.wait(STARTS)
        self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def new_bucket() -> str:
    return f"b-{secrets.token_hex(6)}"


def with_client(url: str, work: Callable[[Any], Awaitable[Any]], **options: Any) -> Any:
    """What `work` does with a client of NATS's own library, as plain tools would."""

    async def run() -> Any:
        client = await nats.connect(url, **options)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(run())


def make_bucket(url: str, bucket: str, **settings: Any) -> None:
    """A bucket as NATS's own library makes it."""

    async def make(client: Any) -> None:
        await client.jetstream().create_key_value(bucket=bucket, **settings)

    with_client(url, make)


def remove_bucket(url: str, bucket: str) -> None:
    async def remove(client: Any) -> None:
        await client.jetstream().delete_key_value(bucket)

    with_client(url, remove)


def await_true(condition: Callable[[], object], what: str, timeout: float = STARTS) -> None:
    until = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < until, f"never happened: {what}"
        time.sleep(0.02)


@contextmanager
def server(config: str = "", **options: Any) -> Iterator[Server]:
    with Server(config, **options).start() as running:
        yield running
