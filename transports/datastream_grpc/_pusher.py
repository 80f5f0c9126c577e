"""Writes of many threads over one stream: those that wait together travel together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._status import from_answer

MOST_BYTES = 256 << 10
"""Of writes that travel together, once there is more than one."""


class Pusher:
    """One Push stream, from its first write to its end.

    Args:
        begin: makes the call of a request iterator.
        where: the server, for error texts.
    """

    def __init__(self, begin: Callable[[Iterator[pb.PushRequest]], Any], where: str) -> None:
        self._where = where
        self._waiting: deque[tuple[pb.WriteRequest, Future[pb.WriteResponse]]] = deque()
        self._sent: dict[str, Future[pb.WriteResponse]] = {}
        # For memory work only.
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)
        self.ended = False
        """It takes no writes any more."""
        self._call = begin(self._requests())
        self._thread = threading.Thread(
            target=self._receive, name="datastream-grpc-push", daemon=True
        )
        self._thread.start()

    def push(self, request: pb.WriteRequest) -> Future[pb.WriteResponse] | None:
        """Send a write; what becomes its answer, None if the stream has ended."""
        answer: Future[pb.WriteResponse] = Future()
        with self._lock:
            if self.ended:
                return None
            self._waiting.append((request, answer))
            self._filled.notify()
        return answer

    def close(self, timeout: float = 0.0) -> None:
        """End the stream; what is not answered yet fails."""
        self._call.cancel()
        with self._lock:
            self.ended = True
            self._filled.notify()
        self._thread.join(timeout)

    def _requests(self) -> Iterator[pb.PushRequest]:
        """What is to be sent; on a thread of gRPC."""
        while True:
            with self._lock:
                while not (self._waiting or self.ended):
                    self._filled.wait()
                if self.ended:
                    return
                together = self._take()
            yield pb.PushRequest(writes=together)

    def _take(self) -> list[pb.WriteRequest]:
        together: list[pb.WriteRequest] = []
        size = 0
        while self._waiting:
            request = self._waiting[0][0]
            size += request.ByteSize()
            if together and size > MOST_BYTES:
                break
            self._sent[request.id] = self._waiting.popleft()[1]
            together.append(request)
        return together

    def _receive(self) -> None:
        error: Exception = EOFError("the server ended the stream")
        try:
            for response in self._call:
                for answer in response.answers:
                    self._answered(answer)
        except Exception as broken:  # noqa: BLE001
            # Of gRPC, or there is no token.
            error = broken
        with self._lock:
            self.ended = True
            self._filled.notify()
            lost = [*self._sent.values(), *(answer for _, answer in self._waiting)]
            self._sent.clear()
            self._waiting.clear()
        for future in lost:
            future.set_exception(error)

    def _answered(self, answer: pb.PushAnswer) -> None:
        with self._lock:
            future = self._sent.pop(answer.id, None)
        if future is None:
            return
        if answer.HasField("response"):
            future.set_result(answer.response)
        else:
            future.set_exception(from_answer(answer.error, answer.text, self._where))
