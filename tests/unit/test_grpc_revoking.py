"""Streams whose token is looked for: when they end."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from datastream_grpc import _revoking
from datastream_grpc._revoking import Proof, Revoking

TOKENS, NONE = {"secret": "ada"}, {}
BEGUN = [TOKENS, TOKENS]
"""Looks when a stream begins, of the stream and of who looks after it."""
TIMEOUT = 10.0


@pytest.fixture(autouse=True)
def looks_often(monkeypatch):
    monkeypatch.setattr(_revoking, "LOOK", 0.0)


def ends(*looks):
    """How a stream ends that lasts until so much was found in its file, which then stays."""

    async def main():
        over, left = asyncio.Event(), [*BEGUN, *looks]
        ended = []

        def names():
            if len(left) == 1:
                over.set()
                return left[0]
            return left.pop(0)

        async def refuse(context):
            ended.append("refused")

        async def stream(request, context):
            await over.wait()
            await asyncio.sleep(0)
            ended.append("by itself")

        revoking = Revoking(names, refuse)
        handler = revoking.around(
            grpc.unary_stream_rpc_method_handler(stream), Proof("secret", "ada")
        )
        async with asyncio.timeout(TIMEOUT):
            task = asyncio.create_task(handler.unary_stream(None, None))
            await asyncio.wait([task])
        return ended

    return asyncio.run(main())


def test_a_file_that_is_just_being_written_ends_nothing():
    assert ends(NONE, TOKENS, NONE, TOKENS, TOKENS) == ["by itself"]


def test_a_token_that_is_gone_ends_its_stream():
    assert ends(NONE, NONE, NONE, TOKENS) == ["refused"]
