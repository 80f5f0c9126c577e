"""What is counted for each principal, connection and stream."""

import asyncio
import weakref
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from datastream_grpc._limits import LimitReached, Limits, Meter
from datastream_grpc._requests import END, received

from datastream import Batch, Entry
from datastream._watch.bounded import BoundedBuffer


def test_what_ended_is_not_counted():
    meter = Meter(Limits())
    with meter.stream("a", "ipv4:1:1") as charge, meter.stream("a", "ipv4:1:2"):
        charge.take(1000)
        assert (meter._streams["a"], meter._bytes["a"]) == (2, 1000)
    assert (dict(meter._streams), dict(meter._bytes)) == ({}, {})


def test_a_refused_stream_is_not_counted():
    meter = Meter(Limits(streams=1))
    with meter.stream("a", "ipv4:1:1"):
        for _ in range(3):
            with pytest.raises(LimitReached), meter.stream("a", "ipv4:1:1"):
                pass
        assert meter._streams["a"] == 1


def test_connections_of_a_principal_and_of_all():
    meter = Meter(Limits(connections=3, principal_connections=2))
    with ExitStack() as stack:
        for who, peer in (("a", 1), ("a", 1), ("a", 2), ("b", 2), ("b", 3)):
            stack.enter_context(meter.stream(who, f"ipv4:1:{peer}"))
        with pytest.raises(LimitReached, match="2 connections"), meter.stream("a", "ipv4:1:3"):
            pass
        with pytest.raises(LimitReached, match="of all"), meter.stream("c", "ipv4:1:4"):
            pass
        with meter.stream("c", "ipv4:1:3"), meter.stream("c", "unix:"):
            pass
        assert dict(meter._connections) == {"a": 2, "b": 2, "": 3}
    assert (dict(meter._streams), dict(meter._connections)) == ({}, {})


def test_a_unix_socket_is_no_one_connection():
    meter = Meter(Limits(streams=1))
    with meter.stream("a", "unix:"), meter.stream("a", "unix:"):
        assert meter._streams["a"] == 2


def test_pushes_of_one_principal_are_none_of_another():
    meter = Meter(Limits(pushes=10))
    assert meter.push("a", 20) == 0
    assert meter.push("a", 10) > 0.9
    with pytest.raises(LimitReached):
        meter.check_push("a", 1)
    meter.check_push("b", 1)


def batch(key, size):
    return Batch((Entry(key, b"x" * size, "bytes", None, "1"),), "c")


def test_what_waits_is_charged_to_who_is_behind():
    meter = Meter(Limits(stream_bytes=10_000))
    with meter.stream("a", "ipv4:1:1") as charge:
        buffer = BoundedBuffer(charge)
        buffer.put(batch("k", 50_000))
        buffer.put(batch("k", 1_000))
        # So little waits for a moment in any stream.
        assert not meter._bytes
        for _ in range(4):
            buffer.put(batch("k", 1_000))
        assert meter._bytes["a"] > 5_000
        while buffer.take() is not None:
            pass
        assert not meter._bytes
        buffer.put(batch("k", 1_000))
        assert buffer.put(batch("k", 9_900)) is not None


def test_many_changes_of_few_keys_are_no_reason_to_end():
    meter = Meter(Limits(stream_bytes=3 << 20))
    with meter.stream("a", "ipv4:1:1") as charge:
        buffer = BoundedBuffer(charge)
        for number in range(10_000):
            assert buffer.put(batch(f"k{number % 10}", 2_000)) is None


def test_a_message_is_not_held_until_the_next_has_come():
    class Message:
        pass

    async def taken():
        held = []

        async def read():
            # What was given before is gone by the time the next is asked for.
            assert [one for one in held if one() is not None] == []
            if len(held) == 3:
                return END
            message = Message()
            held.append(weakref.ref(message))
            return message

        async for message in received(SimpleNamespace(read=read)):
            assert isinstance(message, Message)
            del message
        return len(held)

    assert asyncio.run(taken()) == 3
