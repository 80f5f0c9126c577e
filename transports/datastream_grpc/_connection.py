"""The channel to one server: asked whether it lives, and replaced when it has died silently."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, TypeVar

import grpc
from google.protobuf.empty_pb2 import Empty

from datastream import DatastreamError, SourceUnavailable
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._status import is_unnamed

SERVICE = "datastream.DataService"
LOOK = 0.5
"""Seconds between two looks at a connection that somebody waits for."""


T = TypeVar("T")


class Stubs:
    """The methods of the service over one channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.sync = _unary(channel, "Sync", pb.DataRequest, pb.DataResponse)
        self.push_update = _unary(channel, "PushUpdate", pb.Data, Empty)
        self.write = _unary(channel, "Write", pb.WriteRequest, pb.WriteResponse)
        self.list = _unary(
            channel, "ListCapabilities", pb.ListCapabilitiesRequest, pb.ListCapabilitiesResponse
        )
        self.describe = _unary(channel, "Describe", pb.DescribeRequest, pb.DescribeResponse)
        self.refresh = _unary(channel, "Refresh", pb.RefreshRequest, pb.RefreshResponse)
        self.snapshot = channel.unary_stream(
            f"/{SERVICE}/Snapshot",
            request_serializer=pb.DataRequest.SerializeToString,
            response_deserializer=pb.DataResponse.FromString,
        )
        self.subscribe = channel.unary_stream(
            f"/{SERVICE}/Subscribe",
            request_serializer=pb.DataRequest.SerializeToString,
            response_deserializer=pb.DataResponse.FromString,
        )
        self.history = channel.unary_stream(
            f"/{SERVICE}/History",
            request_serializer=pb.HistoryRequest.SerializeToString,
            response_deserializer=pb.HistoryResponse.FromString,
        )
        self.push = channel.stream_stream(
            f"/{SERVICE}/Push",
            request_serializer=pb.PushRequest.SerializeToString,
            response_deserializer=pb.PushResponse.FromString,
        )
        self.follow = channel.stream_stream(
            f"/{SERVICE}/Follow",
            request_serializer=pb.FollowRequest.SerializeToString,
            response_deserializer=pb.FollowResponse.FromString,
        )
        self.replay = channel.unary_stream(
            f"/{SERVICE}/Replay",
            request_serializer=pb.ReplayRequest.SerializeToString,
            response_deserializer=pb.DataResponse.FromString,
        )


class Connection:
    """The channel of one source, which asks after the server when it is silent.

    gRPC's own pings would do, but for servers of the older protocol: by default they forbid pings
    more often than every five minutes, and end the connection. So `Describe` is called instead,
    which such a server answers, too: with UNIMPLEMENTED.

    Args:
        open_channel: makes a channel.
        where: the server, for error texts.
        heartbeat: seconds of silence after which the server is asked, and as many to answer in.
        described: takes each answer, None from a server of the older protocol. Called on a
            thread of gRPC.
        died: called when there was none, likewise.
    """

    def __init__(
        self,
        open_channel: Callable[[], grpc.Channel],
        where: str,
        heartbeat: float,
        *,
        described: Callable[[pb.DescribeResponse | None], None],
        died: Callable[[], None],
    ) -> None:
        self._open_channel = open_channel
        self._where = where
        self.heartbeat = heartbeat
        self._described = described
        self._died = died
        self._lock = threading.Lock()
        self._stubs = Stubs(open_channel())
        self._heard = monotonic()
        self._asked = False
        # Calls that wait for an answer of their own.
        self._waiting = 0
        # The stubs whose channel is to be replaced: gRPC closes none within its own callbacks.
        self._dead: Stubs | None = None
        self._closed = False

    @property
    def stubs(self) -> Stubs:
        """What calls are made with, of a channel that is not known to be dead."""
        if self._dead is not None:
            self.mend()
        return self._stubs

    def heard(self) -> None:
        """The server has said something."""
        self._heard = monotonic()

    def due(self) -> float:
        """Seconds until the server has to be asked."""
        if self._asked:
            return self.heartbeat
        return max(0.0, self._heard + self.heartbeat - monotonic())

    def ask_if_due(self) -> None:
        """Ask the server, if it has been silent for long enough."""
        if self.due() <= 0:
            self.ask()

    def ask(self) -> None:
        """Ask the server whether it is there and how it is; does not wait for the answer."""
        with self._lock:
            if self._asked or self._closed:
                return
            self._asked = True
        stubs = self.stubs
        try:
            answer = stubs.describe.future(pb.DescribeRequest(), timeout=self.heartbeat)
        except ValueError:
            # It was replaced, or closed, just now.
            self._asked = False
            return
        answer.add_done_callback(lambda call: self._answered(stubs, call))

    def refresh(self) -> None:
        """Have the server look at its backend; does not wait for the answer."""
        # Closed, or replaced just now: then nobody waits for news of it.
        with suppress(ValueError):
            self.stubs.refresh.future(pb.RefreshRequest(), timeout=self.heartbeat)

    def describe(self, timeout: float) -> pb.DescribeResponse | None:
        """Ask the server, and wait: its answer, None from a server of the older protocol."""
        return answer_or_none(lambda: self._stubs.describe(pb.DescribeRequest(), timeout=timeout))

    def mend(self) -> None:
        """Replace the channel, if it is dead: all its calls end."""
        with self._lock:
            dead, self._dead = self._dead, None
            if dead is None or dead is not self._stubs or self._closed:
                return
            self._stubs = Stubs(self._open_channel())
            self._heard = monotonic()
        dead.channel.close()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Ask when it is due, from a thread, while the block waits for an answer of its own."""
        done = threading.Event()
        thread = threading.Thread(
            target=self._watch, args=(done,), name="datastream-grpc-watch", daemon=True
        )
        with self._lock:
            self._waiting += 1
        thread.start()
        try:
            yield
        finally:
            done.set()
            with self._lock:
                self._waiting -= 1

    def close(self) -> None:
        """Cancel every call that runs."""
        with self._lock:
            self._closed = True
        self._stubs.channel.close()

    def silence(self) -> SourceUnavailable:
        """Why a connection is dead."""
        return SourceUnavailable(
            f"{self._where}: no sign of life for {2 * self.heartbeat:g} s; connecting anew"
        )

    def _watch(self, done: threading.Event) -> None:
        while not done.wait(min(LOOK, max(self.due(), LOOK / 10))):
            self.ask_if_due()
            self.mend()

    def _answered(self, stubs: Stubs, call: Any) -> None:
        self._asked = False
        code = call.code()
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            if not self._closed:
                self._dead = stubs
                self._died()
            return
        if code is grpc.StatusCode.UNAVAILABLE and self._waiting:
            # It is gone, and a call that was made before is silent: gRPC may never end that.
            self._dead = stubs
            return
        self.heard()
        try:
            self._described(answer_or_none(call.result))
        except (grpc.RpcError, DatastreamError):
            # It is away, or there is no token; whoever needs it finds that out.
            return


def answer_or_none(call: Callable[[], T]) -> T | None:
    """The answer to a call; None from a server that does not know it."""
    try:
        response = call()
    except grpc.RpcError as error:
        if is_unnamed(error, grpc.StatusCode.UNIMPLEMENTED):
            return None
        raise
    return response


def _unary(channel: grpc.Channel, name: str, request: Any, response: Any) -> Any:
    return channel.unary_unary(
        f"/{SERVICE}/{name}",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )
