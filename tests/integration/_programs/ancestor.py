"""The ancestor's protocol, made here from its description: none of our own messages or code."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp

SERVICE = "datastream.DataService"
_STRING, _BYTES, _MESSAGE = 9, 12, 11
_ONE, _MANY = 1, 3


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="ancestor.proto",
        package="datastream",
        syntax="proto3",
        dependency=["google/protobuf/timestamp.proto"],
    )

    def message(name: str, *fields: tuple[str, int, int, int, str]) -> Any:
        made = file.message_type.add(name=name)
        for field, number, label, kind, of in fields:
            made.field.add(name=field, number=number, label=label, type=kind, type_name=of or None)
        return made

    message("ListCapabilitiesRequest")
    message(
        "ListCapabilitiesResponse",
        ("capabilities", 1, _MANY, _MESSAGE, ".datastream.Capability"),
    )
    message("Capability", ("key", 1, _ONE, _STRING, ""), ("value_type", 2, _ONE, _STRING, ""))
    message("DataRequest", ("keys", 1, _MANY, _STRING, ""))
    message(
        "Data",
        ("key", 1, _ONE, _STRING, ""),
        ("value", 2, _ONE, _BYTES, ""),
        ("value_type", 3, _ONE, _STRING, ""),
        ("updated_at", 4, _ONE, _MESSAGE, ".google.protobuf.Timestamp"),
    )
    response = message(
        "DataResponse", ("data", 1, _MANY, _MESSAGE, ".datastream.DataResponse.DataEntry")
    )
    entry = response.nested_type.add(name="DataEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=_ONE, type=_STRING)
    entry.field.add(name="value", number=2, label=_ONE, type=_MESSAGE, type_name=".datastream.Data")
    return file


# A pool of its own: the default one holds our messages of the same names.
_pool = descriptor_pool.DescriptorPool()
_pool.AddSerializedFile(Timestamp.DESCRIPTOR.file.serialized_pb)
_pool.Add(_file())


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"datastream.{name}"))


ListCapabilitiesRequest = _class("ListCapabilitiesRequest")
ListCapabilitiesResponse = _class("ListCapabilitiesResponse")
Capability = _class("Capability")
DataRequest = _class("DataRequest")
DataResponse = _class("DataResponse")
Data = _class("Data")


class Client:
    """What the ancestor's generated stub does, with gRPC's default limits."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])

    def list(self) -> dict[str, str]:
        response = self._unary("ListCapabilities", ListCapabilitiesResponse)(
            ListCapabilitiesRequest(), timeout=20
        )
        return {capability.key: capability.value_type for capability in response.capabilities}

    def sync(self, *keys: str) -> dict[str, Any]:
        return dict(self._unary("Sync", DataResponse)(DataRequest(keys=keys), timeout=20).data)

    def push(self, key: str, value: bytes, value_type: str = "str", **updated_at: int) -> Any:
        data = Data(key=key, value=value, value_type=value_type)
        if updated_at:
            data.updated_at.seconds = updated_at["seconds"]
        return self._unary("PushUpdate", Empty)(data, timeout=20)

    def subscribe(self, *keys: str, timeout: float = 60) -> Any:
        call = self.channel.unary_stream(
            f"/{SERVICE}/Subscribe",
            request_serializer=DataRequest.SerializeToString,
            response_deserializer=DataResponse.FromString,
        )
        return call(DataRequest(keys=keys), timeout=timeout)

    def raw(self, method: str, request: bytes) -> bytes:
        """One call in bytes, as they are on the wire."""
        response: bytes = self.channel.unary_unary(f"/{SERVICE}/{method}")(request, timeout=20)
        return response

    def raw_stream(self, method: str, request: bytes) -> Any:
        return self.channel.unary_stream(f"/{SERVICE}/{method}")(request, timeout=60)

    def _unary(self, method: str, response: Any) -> Any:
        return self.channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response.FromString,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()


class Server:
    """A server of the ancestor's kind over a dictionary, polite or with its known habits.

    Args:
        address: port 0 for a free one.
        one_by_one: each key comes in a message of its own, as from one poller a key.
        silent: a stream sends nothing until there is something to send.
        resend: every change sends all keys of the stream again, changed or not.
        strict: a missing key fails `Sync`.
        ending: a missing key ends the stream for all keys.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:0",
        data: dict[str, Any] | None = None,
        *,
        one_by_one: bool = False,
        silent: bool = False,
        resend: bool = False,
        strict: bool = False,
        ending: bool = False,
    ) -> None:
        self.data = {} if data is None else data
        self.one_by_one, self.silent, self.resend, self.strict = one_by_one, silent, resend, strict
        self.ending = ending
        self.changed = threading.Condition()
        self.sequence = 0
        self.log: list[str] = []
        self.streams = 0
        self.requests: list[bytes] = []
        self._executor = ThreadPoolExecutor(16)
        self._server = grpc.server(self._executor, options=[("grpc.so_reuseport", 0)])
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        methods = {
            "ListCapabilities": (unary, self._list, ListCapabilitiesRequest),
            "Sync": (unary, self._sync, DataRequest),
            "Subscribe": (stream, self._subscribe, DataRequest),
            "PushUpdate": (unary, self._push, Data),
        }
        handlers = {
            name: make(
                handler,
                request_deserializer=self._noting(request),
                response_serializer=lambda message: message.SerializeToString(),
            )
            for name, (make, handler, request) in methods.items()
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, handlers),)
        )
        port = self._server.add_insecure_port(address)
        self.address = f"127.0.0.1:{port}"
        self._stopping = False
        self._server.start()

    def put(self, key: str, value: bytes, value_type: str = "str", seconds: int = 1) -> None:
        """A change by a program of its own."""
        data = Data(key=key, value=value, value_type=value_type)
        data.updated_at.seconds = seconds
        self._store(data)

    def remove(self, key: str) -> None:
        """Gone from the backend, which nobody is ever told."""
        with self.changed:
            del self.data[key]

    def stop(self) -> None:
        with self.changed:
            self._stopping = True
            self.changed.notify_all()
        self._server.stop(0).wait(30)
        self._executor.shutdown()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _noting(self, request: Any) -> Any:
        def deserialise(raw: bytes) -> Any:
            self.requests.append(raw)
            return request.FromString(raw)

        return deserialise

    def _store(self, data: Any) -> None:
        with self.changed:
            self.data[data.key] = data
            self.log.append(data.key)
            self.changed.notify_all()

    def _list(self, request: Any, context: Any) -> Any:
        found = [Capability(key=k, value_type=d.value_type) for k, d in self.data.items()]
        return ListCapabilitiesResponse(capabilities=found)

    def _sync(self, request: Any, context: Any) -> Any:
        with self.changed:
            missing = [key for key in request.keys if key not in self.data]
            if missing and self.strict:
                context.abort(grpc.StatusCode.NOT_FOUND, f"key not found: {missing[0]}")
            return self._response(request.keys or self.data)

    def _push(self, request: Any, context: Any) -> Any:
        self._store(request)
        return Empty()

    def _response(self, keys: Any) -> Any:
        return DataResponse(data={key: self.data[key] for key in keys if key in self.data})

    def _subscribe(self, request: Any, context: Any) -> Any:
        self.streams += 1
        with self.changed:
            if self.ending and any(key not in self.data for key in request.keys):
                context.abort(grpc.StatusCode.NOT_FOUND, "key not found")
            after = len(self.log)
            messages = list(self._initial(request.keys))
        yield from messages
        while context.is_active():
            with self.changed:
                if len(self.log) == after and not self._stopping:
                    self.changed.wait(0.1)
                if self._stopping:
                    return
                keys = set(self.log[after:])
                after = len(self.log)
                wanted = [key for key in keys if not request.keys or key in request.keys]
                if self.resend and wanted:
                    wanted = list(request.keys or self.data)
                messages = [self._response(wanted)] if wanted else []
            yield from messages

    def _initial(self, keys: Any) -> Any:
        present = [key for key in (keys or self.data) if key in self.data]
        if self.silent and not present:
            return
        if self.one_by_one:
            for key in present:
                yield self._response([key])
        else:
            yield self._response(present)
