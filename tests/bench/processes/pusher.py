"""Pushes values to a gRPC server, as fast as it can or at a pace."""

from __future__ import annotations

import threading
import time
from itertools import count
from typing import Any

import grpc
from datastream_grpc._pb import service_pb2 as pb
from google.protobuf.empty_pb2 import Empty

from tests.bench.child import answer_requests
from tests.bench.wire import PUSH, data

_numbers = count(1)
_methods: dict[str, Any] = {}


def pace(address: str, pushes: int, pause: float) -> int:
    """Push the time, the next `pause` seconds after the answer to the last; which that was."""
    push = _method(address)
    stamp = 0
    for _ in range(pushes):
        time.sleep(pause)
        stamp = time.time_ns()
        push(data(stamp))
    return stamp


def rush(address: str, pushes: int, callers: int) -> float:
    """Pushes per second of `callers` threads, each waiting for the answer before its next."""
    push = _method(address)
    messages = [[data(next(_numbers)) for _ in range(pushes // callers)] for _ in range(callers)]
    threads = [threading.Thread(target=_push_all, args=(push, part)) for part in messages]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(map(len, messages)) / (time.perf_counter() - start)


def _push_all(push: Any, messages: list[pb.Data]) -> None:
    for message in messages:
        push(message)


def _method(address: str) -> Any:
    if address not in _methods:
        channel = grpc.insecure_channel(address, (("grpc.use_local_subchannel_pool", 1),))
        _methods[address] = channel.unary_unary(PUSH, pb.Data.SerializeToString, Empty.FromString)
    return _methods[address]


if __name__ == "__main__":
    answer_requests({"pace": pace, "rush": rush})
