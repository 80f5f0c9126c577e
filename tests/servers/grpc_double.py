"""A gRPC server whose streams say what a test wants them to."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
from datastream_grpc._pb import service_pb2 as pb

TIMEOUT = 30.0


class Double:
    """A server whose `subscribe` is a test's own; it counts its streams.

    Args:
        subscribe: takes the request and the number of the stream, from 1; gives messages. At its
            end the stream stays open, unless it returned "end".
    """

    def __init__(self, subscribe, state=lambda: pb.DataResponse(cursor="e:0", initial=True)):
        self.streams = []
        self._gives = subscribe
        self._executor = ThreadPoolExecutor(32)
        self._server = grpc.server(self._executor)
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        handlers = {
            "Sync": unary(lambda *_: state(), pb.DataRequest.FromString, _bytes),
            "Subscribe": stream(self._subscribe, pb.DataRequest.FromString, _bytes),
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("datastream.DataService", handlers),)
        )
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _subscribe(self, request, context):
        self.streams.append(request)
        how = yield from self._gives(request, len(self.streams))
        while how != "end" and not request.once and context.is_active():
            threading.Event().wait(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.stop(0).wait(TIMEOUT)
        self._executor.shutdown()


def _bytes(message):
    return message.SerializeToString()


def message(number, *, initial=False, key="k", **fields):
    data = pb.Data(key=key, value=b"%d" % number, value_type="int", revision=f"r{number}")
    return pb.DataResponse(data={key: data}, cursor=f"e:{number}", initial=initial, **fields)


def begins(number):
    return pb.DataResponse(cursor=f"e:{number}", initial=True)
