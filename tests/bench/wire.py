"""Names and messages of the wire that both sides of a measurement use."""

from __future__ import annotations

from datastream_grpc._pb import service_pb2 as pb

PUSH = "/datastream.DataService/PushUpdate"
SUBSCRIBE = "/datastream.DataService/Subscribe"
KEY = "bench/key"
VALUE_BYTES = 64


def data(number: int, key: str = KEY) -> pb.Data:
    """The message that pushes `number`, in a value of 64 bytes."""
    return pb.Data(key=key, value=b"%0*d" % (VALUE_BYTES, number), value_type="bytes")
