"""A gRPC server that forwards every push to every subscriber and stores nothing: the floor."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any, TypeAlias

import grpc
import uvloop
from datastream_grpc._pb import service_pb2 as pb
from google.protobuf.empty_pb2 import Empty

from tests.bench.child import answer_requests
from tests.bench.wire import PUSH, SUBSCRIBE

Context: TypeAlias = Any
"""A grpc.aio.ServicerContext: gRPC has no types."""


class Forwarder:
    """One queue a stream; a push puts its message into each.

    Args:
        serialise_once: what is queued are bytes, not a message serialised again per stream.
    """

    def __init__(self, *, serialise_once: bool) -> None:
        self._once = serialise_once
        self._queues: set[asyncio.Queue[Any]] = set()

    def handlers(self) -> Any:
        serialise = None if self._once else pb.DataResponse.SerializeToString
        methods = {
            PUSH: grpc.unary_unary_rpc_method_handler(
                self.push, pb.Data.FromString, Empty.SerializeToString
            ),
            SUBSCRIBE: grpc.unary_stream_rpc_method_handler(
                self.subscribe, pb.DataRequest.FromString, serialise
            ),
        }
        return _Router(methods)

    async def push(self, request: pb.Data, context: Context) -> Empty:
        message: Any = pb.DataResponse(data={request.key: request})
        if self._once:
            message = message.SerializeToString()
        for queue in self._queues:
            queue.put_nowait(message)
        return _EMPTY

    async def subscribe(self, request: pb.DataRequest, context: Context) -> None:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        empty: Any = pb.DataResponse(initial=True)
        queue.put_nowait(empty.SerializeToString() if self._once else empty)
        self._queues.add(queue)
        try:
            while True:
                await context.write(await queue.get())
        finally:
            self._queues.discard(queue)


class _Router(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, methods: dict[str, Any]) -> None:
        self._methods = methods

    def service(self, call: Any) -> Any:
        return self._methods.get(call.method)


async def _serve(forwarder: Forwarder, started: threading.Event, port: list[int]) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((forwarder.handlers(),))
    port.append(server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    started.set()
    await server.wait_for_termination()


def main(kind: str) -> None:
    """Serve until stdin ends; `kind` is "plain" or "fast" (uvloop, serialised once)."""
    fast = kind == "fast"
    loop = uvloop.new_event_loop() if fast else asyncio.new_event_loop()
    started = threading.Event()
    port: list[int] = []
    forwarder = Forwarder(serialise_once=fast)

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(_serve(forwarder, started, port))

    threading.Thread(target=run, daemon=True).start()
    started.wait()
    answer_requests({"address": lambda: f"127.0.0.1:{port[0]}"})


_EMPTY = Empty()

if __name__ == "__main__":
    main(sys.argv[1])
