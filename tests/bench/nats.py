"""``nats:`` beside the bare client library doing the same in a bucket of the same server."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from itertools import count
from statistics import median
from typing import Any

import nats

import datastream
from tests.bench.figures import Effort, Figure, take_turns

PUTS = 4_000
FLIGHT = 500
"""Messages in flight together, for both."""
KEYS = 50_000
CHANGES, PAUSE = 150, 0.003
"""Changes a round, and seconds between them."""


class Bare:
    """The client library on a loop of its own, in a thread like that of a source."""

    def __init__(self, url: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.client = self.run(nats.connect(url))
        self.js = self.client.jetstream(publish_async_max_pending=FLIGHT)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def close(self) -> None:
        self.run(self.client.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@contextmanager
def _server() -> Iterator[tuple[str, Bare]]:
    from tests.servers.nats import server

    with server() as running:
        bare = Bare(running.url)
        try:
            yield running.url, bare
        finally:
            bare.close()


def nats_bucket(effort: Effort) -> Iterator[Figure]:
    """Latency, writes and the first state."""
    with _server() as (url, bare):
        yield _latency(effort, url, bare)
        yield _put_many(effort, url, bare)
        yield _snapshot(effort, url, bare)


def _latency(effort: Effort, url: str, bare: Bare) -> Figure:
    changes = effort.of(CHANGES)
    writer = Bare(url)
    with datastream.open(f"{url}/latency", create=True) as store:
        kv = bare.run(bare.js.key_value("latency"))
        plain = writer.run(writer.js.key_value("latency"))
        numbers = count()

        def measure(take: Callable[[Callable[[str], None]], Callable[[], None]]) -> float:
            arrived: dict[str, float] = {}
            seen = threading.Event()

            def arrive(value: str) -> None:
                arrived[value] = time.perf_counter()
                seen.set()

            stop = take(arrive)
            sent = {}
            for _ in range(changes):
                value = f"{next(numbers)}"
                seen.clear()
                sent[value] = time.perf_counter()
                writer.run(plain.put("key", value.encode()))
                seen.wait(5)
                time.sleep(PAUSE)
            stop()
            return median(arrived[value] - at for value, at in sent.items()) * 1e6

        def ours(arrive: Callable[[str], None]) -> Callable[[], None]:
            ready = threading.Event()
            watch = store.watch_batches("key").subscribe(
                lambda batch: (
                    ready.set()
                    if batch.initial
                    else [arrive(entry.value.decode()) for entry in batch]
                )
            )
            ready.wait(5)
            return watch.dispose

        def floor(arrive: Callable[[str], None]) -> Callable[[], None]:
            ready = threading.Event()
            watcher = bare.run(kv.watch("key"))

            async def follow() -> None:
                async for update in watcher:
                    if update is None:
                        ready.set()
                    else:
                        arrive(update.value.decode())

            task = asyncio.run_coroutine_threadsafe(follow(), bare.loop)
            ready.wait(5)

            def stop() -> None:
                task.cancel()
                bare.run(watcher.stop())

            return stop

        rounds = take_turns(effort, lambda: measure(ours), lambda: measure(floor))
    writer.close()
    return rounds.figure(
        "watch latency p50 on nats", "µs", "≤ 1.5 of bare kv.watch", lambda r: r <= 1.5
    )


def _put_many(effort: Effort, url: str, bare: Bare) -> Figure:
    puts = effort.of(PUTS)
    numbers = count()
    with datastream.open(f"{url}/ours", create=True) as store:
        bare.run(bare.js.create_key_value(bucket="bare"))

        def ours() -> float:
            value = f"value {next(numbers)}"
            values = {f"k/{number}": value for number in range(puts)}
            start = time.perf_counter()
            store.put_many(values)
            return puts / (time.perf_counter() - start)

        async def publish(value: bytes) -> None:
            for number in range(puts):
                await bare.js.publish_async(f"$KV.bare.k.{number}", value, wait_stall=10)
            await bare.js.publish_async_completed()

        def floor() -> float:
            value = b"value %d" % next(numbers)
            start = time.perf_counter()
            bare.run(publish(value))
            return puts / (time.perf_counter() - start)

        rounds = take_turns(effort, ours, floor)
    return rounds.figure(
        "put_many on nats", "/s", "≥ 0.8 of bare publishes in flight", lambda r: r >= 0.8
    )


def _snapshot(effort: Effort, url: str, bare: Bare) -> Figure:
    keys = effort.of(KEYS)
    with datastream.open(f"{url}/large", create=True) as store:
        kv = bare.run(bare.js.key_value("large"))
        store.put_many({f"k/{number}": number for number in range(keys)})

        def ours() -> float:
            start = time.perf_counter()
            found = store.snapshot()
            took = time.perf_counter() - start
            assert len(found) == keys
            return took * 1e3

        async def watch() -> int:
            watcher, found = await kv.watchall(), {}
            async for update in watcher:
                if update is None:
                    break
                found[update.key] = update
            await watcher.stop()
            return len(found)

        def floor() -> float:
            start = time.perf_counter()
            assert bare.run(watch()) == keys
            return (time.perf_counter() - start) * 1e3

        rounds = take_turns(effort, ours, floor)
    return rounds.figure(
        f"first snapshot of {keys:,} keys on nats",
        "ms",
        "≤ 1.3 of bare watchall",
        lambda r: r <= 1.3,
    )
