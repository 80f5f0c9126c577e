"""The watches of one source: over one Follow call, or a Subscribe call each."""

from __future__ import annotations

import threading
from collections.abc import Callable

from datastream_grpc._carriers import ENDED, FirstBatch, Follower, Running, Sink, Subscribed
from datastream_grpc._connection import Connection
from datastream_grpc._pb import service_pb2 as pb


class Watches:
    """Begins watches, from any thread.

    Args:
        connection: to the server; stays the caller's.
        where: the server, for error texts.
        timeout: seconds for a first batch to begin, and for each part of it.
        silence: makes the error for one that does not.
    """

    def __init__(
        self, connection: Connection, where: str, timeout: float, silence: Callable[[], Exception]
    ) -> None:
        self.follows = False
        """The server takes many watches over one stream."""
        self._connection = connection
        self._where = where
        self._timeout = timeout
        self._silence = silence
        # For beginning a call, which waits for nothing.
        self._lock = threading.Lock()
        self._follower: Follower | None = None

    def begin(self, request: pb.DataRequest, sink: Sink) -> Running:
        """Begin a watch: over the one stream of all, where the server has that."""
        if self.follows:
            followed = self._follower_now().add(request, sink)
            # It may have ended just now; a new one may not, but by a server that is gone.
            followed = followed or self._follower_now().add(request, sink)
            if followed is not None:
                return followed
        call = self._connection.stubs.subscribe(request)
        return Subscribed(call, sink, self._connection.heard)

    def first(self, request: pb.DataRequest) -> pb.DataResponse:
        """The first batch of a watch, which ends with it."""
        first = FirstBatch()
        running = self.begin(request, first)
        try:
            if not first.wait(self._timeout):
                running.give_up()
                raise self._silence()
        finally:
            running.cancel()
        if first.batch is None:
            raise first.error or EOFError(ENDED)
        return first.batch

    def close(self, timeout: float) -> None:
        """End the stream of watches, if there is one."""
        with self._lock:
            follower, self._follower = self._follower, None
        if follower is not None:
            follower.close(timeout)

    def _follower_now(self) -> Follower:
        begin, heard = self._connection.stubs.follow, self._connection.heard
        with self._lock:
            if self._follower is None or self._follower.ended:
                self._follower = Follower(
                    begin, self._where, heard=heard, unknown=self._follow_no_more
                )
            return self._follower

    def _follow_no_more(self) -> None:
        """Take in that an older server has taken the place of one that has Follow."""
        self.follows = False
