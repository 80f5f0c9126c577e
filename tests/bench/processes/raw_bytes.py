"""A grpc.aio server that streams messages which are serialised already, and stores nothing."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import grpc
import uvloop

from tests.bench.child import answer_requests

METHOD = "/bench/Stream"


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Streams as many messages of a size as a request says: ``NUMBER SIZE``."""

    def service(self, call: Any) -> Any:
        return grpc.unary_stream_rpc_method_handler(self.stream) if call.method == METHOD else None

    async def stream(self, request: bytes, context: Any) -> None:
        number, size = map(int, request.split())
        message = b"x" * size
        for _ in range(number):
            await context.write(message)


async def _serve(started: threading.Event, port: list[int]) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Handler(),))
    port.append(server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    started.set()
    await server.wait_for_termination()


def main() -> None:
    """Serve until stdin ends."""
    started, port = threading.Event(), list[int]()
    loop = uvloop.new_event_loop()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(_serve(started, port))

    threading.Thread(target=run, daemon=True).start()
    started.wait()
    answer_requests({"address": lambda: f"127.0.0.1:{port[0]}"})


if __name__ == "__main__":
    main()
