"""What brings a watch to its sink: a Subscribe call of its own, or the Follow call of all."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, Protocol

import grpc

from datastream import SourceUnavailable
from datastream_grpc._convert import Parts
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._status import from_answer, is_unnamed

LINGER = 5.0
"""Seconds for which a Follow call is kept without watches: a store replaces its own by another."""
ENDED = "the server ended the stream"


class Sink(Protocol):
    """Takes what a watch brings, on one thread, and never blocks; what it raises ends the watch."""

    def take(self, message: pb.DataResponse, /) -> None:
        """Take a message."""
        ...

    def end(self, error: Exception, /) -> None:
        """No message follows."""
        ...


class Running(Protocol):
    """A watch that runs."""

    def cancel(self) -> None:
        """End it; its sink is told so."""
        ...

    def give_up(self) -> None:
        """End it, as it has not begun in time; and the call too, if that is as silent."""
        ...

    def join(self, timeout: float) -> None:
        """Wait until its sink is called no more, for a watch that was cancelled."""
        ...


class Subscribed:
    """A watch by a Subscribe call, with a thread of its own.

    Args:
        call: that runs.
        sink: takes what it brings.
        heard: called whenever something arrives.
    """

    def __init__(self, call: Any, sink: Sink, heard: Callable[[], None]) -> None:
        self._call = call
        self._sink = sink
        self._heard = heard
        self._thread = threading.Thread(
            target=self._receive, name="datastream-grpc-stream", daemon=True
        )
        self._thread.start()

    def cancel(self) -> None:
        self._call.cancel()

    def give_up(self) -> None:
        self._call.cancel()

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)

    def _receive(self) -> None:
        try:
            for message in self._call:
                self._heard()
                self._sink.take(message)
            error: Exception = EOFError(ENDED)
        except Exception as broken:  # noqa: BLE001
            # Of gRPC; or of a sink that makes nothing of what the server sent.
            error = broken
            self._call.cancel()
        self._sink.end(error)


class Followed:
    """A watch of a Follow call.

    Args:
        follower: of the call.
        number: of the watch.
        sink: takes what it brings.
        received: how many messages the call had brought before.
    """

    def __init__(self, follower: Follower, number: int, sink: Sink, received: int) -> None:
        self._follower = follower
        self.number = number
        self.sink = sink
        self._received = received

    def cancel(self) -> None:
        self._follower.remove(self)

    def give_up(self) -> None:
        self._follower.remove(self)
        self._follower.give_up(self._received)

    def join(self, timeout: float) -> None:
        # The thread that calls sinks belongs to all.
        pass


class Follower:
    """One Follow call, from its first watch until there was none for `LINGER` seconds.

    Args:
        begin: makes the call of a request iterator.
        where: the server, for error texts.
        heard: called whenever something arrives.
        unknown: called if the server turns out not to have this.
    """

    def __init__(
        self,
        begin: Callable[[Iterator[pb.FollowRequest]], Any],
        where: str,
        *,
        heard: Callable[[], None],
        unknown: Callable[[], None],
    ) -> None:
        self._heard = heard
        self._unknown = unknown
        self._where = where
        self._numbers = count(1)
        self._watches: dict[int, Followed] = {}
        self._received = 0
        self._requests: deque[pb.FollowRequest] = deque()
        # For memory work only.
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)
        self.ended = False
        """It takes no watches any more."""
        self._call = begin(self._sent())
        self._thread = threading.Thread(
            target=self._receive, name="datastream-grpc-follow", daemon=True
        )
        self._thread.start()

    def add(self, request: pb.DataRequest, sink: Sink) -> Followed | None:
        """Begin a watch; None if the call has ended."""
        with self._lock:
            if self.ended:
                return None
            followed = Followed(self, next(self._numbers), sink, self._received)
            self._watches[followed.number] = followed
            self._send(pb.FollowRequest(watch=followed.number, add=request))
        return followed

    def remove(self, followed: Followed) -> None:
        """End a watch."""
        with self._lock:
            if self._watches.pop(followed.number, None) is None:
                return
            if not self.ended:
                self._send(pb.FollowRequest(watch=followed.number, remove=True))
        # At once: whoever waits for its beginning waits no longer.
        followed.sink.end(SourceUnavailable(f"{self._where}: the watch was ended here"))

    def give_up(self, received: int) -> None:
        """End the call, unless it has brought more than so many messages.

        gRPC may never end one that was made just as its server went.
        """
        if received == self._received:
            silent = SourceUnavailable(f"{self._where}: the stream is silent; it is begun anew")
            # First: the call's end would give its watches another reason.
            self._end(silent)
            self._call.cancel()

    def close(self, timeout: float) -> None:
        """End the call and all watches."""
        self._call.cancel()
        with self._lock:
            self.ended = True
            self._filled.notify()
        self._thread.join(timeout)

    def _send(self, request: pb.FollowRequest) -> None:
        self._requests.append(request)
        self._filled.notify()

    def _sent(self) -> Iterator[pb.FollowRequest]:
        """What is to be sent; on a thread of gRPC."""
        while True:
            with self._lock:
                if not self._await_request():
                    self.ended = True
                    return
                request = self._requests.popleft()
            yield request

    def _await_request(self) -> bool:
        """Wait for something to send; False once the call is to end."""
        while not (self._requests or self.ended):
            was_idle = not self._watches
            if not self._filled.wait(LINGER if was_idle else None) and not self._watches:
                return False
        return not self.ended

    def _receive(self) -> None:
        error: Exception = EOFError(ENDED)
        try:
            for response in self._call:
                self._received += 1
                self._heard()
                self._take(response)
        except grpc.RpcError as broken:
            error = broken
            if is_unnamed(broken, grpc.StatusCode.UNIMPLEMENTED):
                self._unknown()
        except Exception as broken:  # noqa: BLE001
            # Of a sink that makes nothing of what the server sent.
            error = broken
            self._call.cancel()
        self._end(error)

    def _end(self, error: Exception) -> None:
        with self._lock:
            self.ended = True
            self._filled.notify()
            left = list(self._watches.values())
            self._watches.clear()
        for followed in left:
            followed.sink.end(error)

    def _take(self, response: pb.FollowResponse) -> None:
        if not response.ended:
            followed = self._watches.get(response.watch)
            if followed is not None:
                followed.sink.take(response.response)
            return
        with self._lock:
            followed = self._watches.pop(response.watch, None)
        if followed is not None:
            followed.sink.end(self._why(response))

    def _why(self, response: pb.FollowResponse) -> Exception:
        if response.text:
            return from_answer(response.error, response.text, self._where)
        return EOFError(ENDED)


class FirstBatch:
    """Takes the first batch of a watch."""

    def __init__(self) -> None:
        self._parts = Parts()
        self._done = threading.Event()
        self._received = 0
        self.batch: pb.DataResponse | None = None
        self.error: Exception | None = None
        """Why there is none."""

    def take(self, message: pb.DataResponse) -> None:
        if self.batch is None:
            self._received += 1
            self.batch = self._parts.add(message)
            if self.batch is not None:
                self._done.set()

    def end(self, error: Exception) -> None:
        self.error = error
        self._done.set()

    def wait(self, timeout: float) -> bool:
        """Wait until it is there, or there will be none; False if that is not known in time.

        A large one takes as long as its parts take.
        """
        received = -1
        while received != self._received:
            received = self._received
            if self._done.wait(timeout):
                return True
        return False
