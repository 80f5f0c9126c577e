"""What TLS costs a put over gRPC, and what a watcher of the same store costs it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import grpc
import trustme

import datastream
from tests.bench.child import Child
from tests.bench.figures import Effort, Figure, take_turns
from tests.bench.wire import KEY, PUSH, data

PUTS = 150
"""In one round, one after the other."""


def grpc_tls(effort: Effort) -> Iterator[Figure]:
    """A put over TLS and one in plaintext, to two servers that are alike."""
    puts = effort.of(PUTS)
    with tempfile.TemporaryDirectory() as directory:
        roots = _certify(Path(directory))
        with Child("served", "memory:", "0", directory) as secure, Child("served") as plain:
            port = secure.ask("address").rpartition(":")[2]
            with (
                datastream.open(f"grpcs://localhost:{port}", roots=roots) as ours,
                datastream.open(f"grpc://{plain.ask('address')}") as floor,
            ):
                rounds = take_turns(effort, _putting(ours, puts), _putting(floor, puts))
    wanted = "≤ 1.5 × plaintext"
    yield rounds.figure("a put over gRPC with TLS", "ms", wanted, lambda ratio: ratio <= 1.5)


def grpc_watched(effort: Effort) -> Iterator[Figure]:
    """A put returns once this store's own watchers were offered it: a call, and a message back."""
    puts = effort.of(PUTS)
    with Child("served") as server, Child("bare_server", "plain") as bare:
        with datastream.open(f"grpc://{server.ask('address')}") as store:
            watch = store.watch(KEY).subscribe(lambda entry: None)
            with grpc.insecure_channel(bare.ask("address")) as channel:
                rounds = take_turns(effort, _putting(store, puts), _calling(channel, puts))
            watch.dispose()
    yield rounds.figure(
        "a put over gRPC with a watcher",
        "ms",
        "≤ 1.2 × two bare unary calls",
        lambda ratio: ratio <= 1.2,
    )


def _certify(directory: Path) -> str:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(str(directory / "roots.pem"))
    issued.private_key_pem.write_to_path(str(directory / "server.key"))
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    (directory / "server.pem").write_bytes(chain)
    return str(directory / "roots.pem")


def _putting(store: datastream.Store, puts: int) -> Callable[[], float]:
    return _timed(lambda number: store.put(KEY, b"%064d" % number), puts)


def _calling(channel: grpc.Channel, puts: int) -> Callable[[], float]:
    push = channel.unary_unary(PUSH)

    def call_twice(number: int) -> None:
        for _ in range(2):
            push(data(number).SerializeToString())

    return _timed(call_twice, puts)


def _timed(put: Callable[[int], object], puts: int) -> Callable[[], float]:
    """The median of so many, in milliseconds."""

    def measure() -> float:
        took = []
        for _ in range(puts):
            begin = time.perf_counter()
            put(time.time_ns())
            took.append(time.perf_counter() - begin)
        return median(took) * 1000

    return measure
