"""Whole states over gRPC: the first snapshot of many keys, and the bytes of a resume."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import grpc
from datastream_grpc._pb import service_pb2 as pb

import datastream
from tests.bench.child import Child
from tests.bench.figures import Effort, Figure, noted, take_turns
from tests.bench.processes.raw_bytes import METHOD
from tests.bench.wire import SUBSCRIBE

KEYS = 100_000
CHANGED = 100
"""One key in so many changes."""
PIECE = 256 << 10
NOT_CAPPED = (("grpc.max_receive_message_length", -1),)


def grpc_state(effort: Effort) -> Iterator[Figure]:
    """Both are of as many keys at every effort."""
    effort = effort._replace(rounds=min(effort.rounds, 5))
    with Child("served") as server, Child("raw_bytes") as raw:
        cursor = server.ask("fill", KEYS)
        address = server.ask("address")
        whole = _bytes(address, "")
        floor = _snapshot_and_raw(server, raw.ask("address"), whole)
        rounds = take_turns(effort, lambda: _first(address), floor)
        name = f"first snapshot of {KEYS:,} keys over gRPC"
        wanted = "≤ 2 × in process + raw bytes"
        yield rounds.figure(name, "ms", wanted, lambda ratio: ratio <= 2)
        server.ask("change", list(range(0, KEYS, CHANGED)))
        part = _bytes(address, cursor)
    yield noted(
        Figure(
            name=f"resume of {KEYS:,} keys, 1 % of them changed",
            unit="kB",
            ours=part / 1000,
            floor=whole / 1000,
            ratio=part / whole,
            wanted="≤ 2 % of a full sync",
            ok=part / whole <= 0.02,
        ),
        "bytes of the messages",
    )


def _first(address: str) -> float:
    """Milliseconds until a client that opens the store has all of it."""
    begin = time.perf_counter()
    with datastream.open(f"grpc://{address}") as store:
        assert len(store.snapshot()) == KEYS
    return (time.perf_counter() - begin) * 1000


def _snapshot_and_raw(server: Child, address: str, size: int) -> Callable[[], float]:
    request = b"%d %d" % (-(-size // PIECE), PIECE)

    def measure() -> float:
        there = float(server.ask("snapshot"))
        begin = time.perf_counter()
        with grpc.insecure_channel(address, NOT_CAPPED) as channel:
            for _ in channel.unary_stream(METHOD)(request):
                pass
        return (there + time.perf_counter() - begin) * 1000

    return measure


def _bytes(address: str, since: str) -> int:
    """What the first batch of a stream takes."""
    request = pb.DataRequest(since=since, deletes=True, once=True).SerializeToString()
    with grpc.insecure_channel(address, NOT_CAPPED) as channel:
        return sum(map(len, channel.unary_stream(SUBSCRIBE)(request)))
