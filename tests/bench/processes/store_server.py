"""A memory store served over gRPC: ours, beside `bare_server`."""

from __future__ import annotations

import datastream_grpc

import datastream
from tests.bench.child import answer_requests


def main() -> None:
    """Serve until stdin ends."""
    with datastream.open("memory:") as store:
        with datastream_grpc.serve(store, "127.0.0.1:0") as server:
            answer_requests({"address": lambda: server.address})


if __name__ == "__main__":
    main()
