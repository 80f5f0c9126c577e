"""Subscribes to one key and notes how long every value took to arrive."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

import grpc
from datastream_grpc._pb import service_pb2 as pb

import datastream
from tests.bench.arrivals import Arrivals
from tests.bench.child import answer_requests
from tests.bench.wire import KEY, SUBSCRIBE

Note = Callable[[bytes], None]


def watch(address: str, note: Note) -> object:
    """Ours: a remote store, watched as any store is."""
    store = datastream.open(f"grpc://{address}")
    store.watch(KEY).subscribe(lambda entry: note(entry.value))
    return store


def subscribe(address: str, note: Note) -> object:
    """Bare: a thread that iterates over the call of a synchronous channel."""
    channel = grpc.insecure_channel(address)
    stream = channel.unary_stream(
        SUBSCRIBE, pb.DataRequest.SerializeToString, pb.DataResponse.FromString
    )(pb.DataRequest(keys=[KEY]))
    next(stream)

    def receive() -> None:
        for message in stream:
            note(message.data[KEY].value)

    threading.Thread(target=receive, daemon=True).start()
    return channel


def main(kind: str, address: str) -> None:
    """Subscribe until stdin ends; `kind` is "store" or "bare"."""
    arrivals = Arrivals()
    # A watch lives as long as its store or channel is referenced.
    kept = (watch if kind == "store" else subscribe)(address, arrivals.note)
    answer_requests({"forget": arrivals.forget, "until": arrivals.until})
    del kept


if __name__ == "__main__":
    main(*sys.argv[1:])
