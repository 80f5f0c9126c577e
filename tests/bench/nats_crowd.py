"""1,000 watchers through two servers in front of one bucket, on one machine: what each costs."""

from __future__ import annotations

import re
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice

import psutil
from datastream_grpc._pb import service_pb2 as pb

import datastream
from tests.bench.figures import Effort, Figure, percentile
from tests.bench.nats import Bare
from tests.bench.raw_client import Connection
from tests.bench.wire import SUBSCRIBE

WATCHERS, CONNECTIONS = 1_000, 10
"""Each watcher on a key of its own."""
RATE = 2_000
"""Changes a second, over all keys."""
TICK = 0.01
PROBE = "k/0"
SECONDS = 10.0


class Crowd:
    """Streams to one server, taken in by a thread."""

    def __init__(self, address: str, keys: range) -> None:
        self._connections = [Connection(address) for _ in range(CONNECTIONS // 2)]
        for number in keys:
            request = pb.DataRequest(keys=[f"k/{number}"]).SerializeToString()
            self._connections[number % len(self._connections)].call(SUBSCRIBE, request)
        self.taken = 0
        self._open = True
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while self._open:
            ready, _, _ = select.select(self._connections, [], [], 0.1)
            self.taken += sum(1 for c in ready for _ in c.messages())

    def close(self) -> None:
        self._open = False
        self._thread.join()
        for connection in self._connections:
            connection.close()


@contextmanager
def _serving(url: str) -> Iterator[tuple[psutil.Process, str]]:
    command = [sys.executable, "-m", "datastream.cli", "serve", url, "--address", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = re.findall(r"127\.0\.0\.1:\d+", process.stdout.readline())[-1]
        try:
            yield psutil.Process(process.pid), address
        finally:
            process.kill()


def nats_crowd(effort: Effort) -> Iterator[Figure]:
    """Printed, since there is no floor: what `docs/scale.md` reckons with."""
    from tests.servers.nats import server

    watchers, seconds = effort.of(WATCHERS), SECONDS * effort.share
    with ExitStack() as stack:
        running = stack.enter_context(server())
        url = f"{running.url}/crowd"
        stack.enter_context(datastream.open(url, create=True))
        bare = Bare(running.url)
        stack.callback(bare.close)
        servers = [stack.enter_context(_serving(url)) for _ in range(2)]
        processes = [process for process, _ in servers]
        lags: list[float] = []
        probes = [stack.enter_context(datastream.open(f"grpc://{a}")) for _, a in servers]
        for probe in probes:
            probe.watch(PROBE).subscribe(lambda e: lags.append(time.time() - float(e.value)))
        before = [process.memory_info().rss for process in processes]
        crowds = [
            Crowd(address, range(number, watchers, 2))
            for number, (_, address) in enumerate(servers)
        ]
        stack.callback(lambda: [crowd.close() for crowd in crowds])
        time.sleep(1)
        memory = [p.memory_info().rss - b for p, b in zip(processes, before, strict=True)]
        used = [_cpu(process) for process in (*processes, running.process)]
        written, took = bare.run(_write(bare, watchers, seconds))
        time.sleep(0.5)
        cores = [
            (_cpu(process) - b) / took
            for process, b in zip((*processes, running.process), used, strict=True)
        ]
        taken = sum(crowd.taken for crowd in crowds)
    each = sum(memory) / watchers / 1e3
    name = f"{watchers:,} watchers through two servers on nats"
    told = "told only"
    yield Figure(
        name=f"{name}: lag p50",
        unit="ms",
        ours=percentile(lags, 50) * 1e3,
        wanted=told,
        ok=True,
        note=(
            f"p99 {percentile(lags, 99) * 1e3:.1f} ms; {written / took:,.0f} changes/s, "
            f"{taken:,} messages taken"
        ),
    )
    yield Figure(name=f"{name}: memory of each", unit="kB", ours=each, wanted=told, ok=True)
    yield Figure(
        name=f"{name}: CPU of a server per change that it delivers",
        unit="µs",
        ours=sum(cores[:2]) * took / max(1, taken) * 1e6,
        wanted=told,
        ok=True,
        note=", ".join(f"{share:.0%}" for share in cores) + " of a core: both servers, nats-server",
    )


async def _write(bare: Bare, keys: int, seconds: float) -> tuple[int, float]:
    """Change one key after the other, so many a second; how many, and in what time."""
    import asyncio

    start = time.perf_counter()
    numbers = iter(range(1 << 40))
    written = 0
    while (now := time.perf_counter() - start) < seconds:
        for number in islice(numbers, max(0, int(now * RATE) - written)):
            key = f"$KV.crowd.k.{number % keys}"
            await bare.js.publish_async(key, str(time.time()).encode(), wait_stall=10)
            written += 1
        await asyncio.sleep(TICK)
    await bare.js.publish_async_completed()
    return written, time.perf_counter() - start


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
