"""Very many raw streams of many keys whose values are times; how old they are when they arrive."""

from __future__ import annotations

import select
import threading
import time
from itertools import count
from typing import Any

from datastream_grpc._pb import service_pb2 as pb

from tests.bench.child import answer_requests
from tests.bench.raw_client import Connection
from tests.bench.wire import SUBSCRIBE

LOOKED_AT = 50
"""One message in so many is parsed: to parse them all would take the machine."""
TIMEOUT = 120.0
"""Seconds until all have the last change."""


class Streams:
    """Reads all streams in one thread, until each has the value that comes last."""

    def __init__(self) -> None:
        self._lags: list[float] = []
        self._connections: list[Connection] = []
        self._begun: set[tuple[int, int]] = set()
        self._ended: set[tuple[int, int]] = set()
        self._last = b"the value that comes last"
        self._streams = 0
        self._all_begun, self._all_ended = threading.Event(), threading.Event()

    def begin(self, address: str, streams: int, connections: int, last: str) -> bool:
        """Subscribe to everything; whether all have the state."""
        self._last, self._streams = last.encode(), streams
        self._connections = [Connection(address) for _ in range(connections)]
        request = pb.DataRequest(deletes=True).SerializeToString()
        for number in range(streams):
            self._connections[number % connections].call(SUBSCRIBE, request)
        threading.Thread(target=self._read, daemon=True).start()
        return self._all_begun.wait(TIMEOUT)

    def end(self) -> dict[str, Any]:
        """Whether all streams came to the last value, and how far behind they were until then."""
        return {"converged": self._all_ended.wait(TIMEOUT), "lags": self._lags}

    def _read(self) -> None:
        numbers = count()
        while not self._all_ended.is_set():
            ready, _, _ = select.select(self._connections, [], [])
            for connection in ready:
                for stream, message in connection.messages():
                    self._take((connection.fileno(), stream), message, next(numbers))

    def _take(self, stream: tuple[int, int], message: bytes, number: int) -> None:
        if self._last in message:
            self._ended.add(stream)
            if len(self._ended) == self._streams:
                self._all_ended.set()
        elif stream not in self._begun:
            self._begun.add(stream)
            if len(self._begun) == self._streams:
                self._all_begun.set()
        elif number % LOOKED_AT == 0:
            values = [data.value for data in pb.DataResponse.FromString(message).data.values()]
            # The least lag is what the newest of a batch has.
            self._lags += [(time.time_ns() - int(max(values))) / 1e9] if values else []


if __name__ == "__main__":
    streams = Streams()
    answer_requests({"begin": streams.begin, "end": streams.end})
