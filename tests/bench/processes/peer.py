"""Puts and watches of one key-value server, ours or another, by its own asyncio client."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from tests.bench.arrivals import Arrivals
from tests.bench.child import answer_requests

KEY = "bench.key"
SPREAD = 100
"""Keys that a rush writes to."""
VALUE = b"v" * 64

Note = Callable[[bytes], None]


class Peer(Protocol):
    """A connected client."""

    async def put(self, key: str, value: bytes) -> object: ...
    async def watch(self, note: Note) -> None: ...


class Ours:
    async def connect(self, address: str) -> None:
        import datastream

        self._store = datastream.open(f"grpc://{address}")

    async def put(self, key: str, value: bytes) -> object:
        return await self._store.aput(key, value)

    async def watch(self, note: Note) -> None:
        async for entry in self._store.awatch(KEY, initial=False):
            note(entry.value)


class Etcd:
    async def connect(self, address: str) -> None:
        import aetcd

        host, _, port = address.rpartition(":")
        self._client: Any = aetcd.Client(host, int(port))
        await self._client.connect()

    async def put(self, key: str, value: bytes) -> object:
        return await self._client.put(key.encode(), value)

    async def watch(self, note: Note) -> None:
        async for event in await self._client.watch(KEY.encode()):
            note(event.kv.value)


class Nats:
    async def connect(self, address: str) -> None:
        import nats
        from nats.js import api

        client = await nats.connect(f"nats://{address}")
        config = api.KeyValueConfig(bucket="bench", storage=api.StorageType.MEMORY)
        self._bucket: Any = await client.jetstream().create_key_value(config)

    async def put(self, key: str, value: bytes) -> object:
        return await self._bucket.put(key, value)

    async def watch(self, note: Note) -> None:
        async for entry in await self._bucket.watch(KEY):
            if entry is not None and entry.value:
                note(entry.value)


KINDS: dict[str, Any] = {"ours": Ours, "etcd": Etcd, "nats": Nats}


async def rush(peer: Peer, number: int, in_flight: int) -> float:
    """Puts per second of so many coroutines, each waiting for its answer before its next."""
    numbers = iter(range(number))

    async def put_all() -> None:
        for n in numbers:
            await peer.put(f"rush.{n % SPREAD}", VALUE)

    begin = time.perf_counter()
    await asyncio.gather(*(put_all() for _ in range(in_flight)))
    return number / (time.perf_counter() - begin)


async def pace(peer: Peer, number: int, pause: float) -> int:
    """Put the time, again and again; which was the last."""
    stamp = 0
    for _ in range(number):
        await asyncio.sleep(pause)
        stamp = time.time_ns()
        await peer.put(KEY, b"%d" % stamp)
    return stamp


def main(kind: str, address: str) -> None:
    """Answer until stdin ends."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    def run(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

    peer = KINDS[kind]()
    run(peer.connect(address))
    arrivals = Arrivals()
    answer_requests(
        {
            "rush": lambda number, in_flight: run(rush(peer, number, in_flight)),
            "pace": lambda number, pause: run(pace(peer, number, pause)),
            "watch": lambda: bool(
                asyncio.run_coroutine_threadsafe(peer.watch(arrivals.note), loop)
            ),
            "forget": arrivals.forget,
            "until": arrivals.until,
        }
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
