"""The one long stream of a source: opened, read from, replaced and released by any thread."""

from __future__ import annotations

import threading
from time import monotonic

from datastream import SourceUnavailable
from datastream.selection import MAX_KEYS, Selects
from datastream.source import Publish, Reading, Written
from datastream_grpc._calls import LEGACY, Calls
from datastream_grpc._status import translated
from datastream_grpc._stream import BRIEF, Message, Stream, Told, Wanted, reading_of

JOIN = 2.0
"""Seconds `close` waits for the thread of the cancelled stream."""


HELD_MOST, MANY = 5.0, 16
"""Seconds, at most, for which no stream is opened after some that the server ended at once; and how
many of these are counted."""


class LongStream:
    """Follows a union of selections by one `Stream`, which is replaced when the union changes.

    Args:
        calls: of the server.
        told: takes what the server says of itself, see `Stream`.
    """

    def __init__(self, calls: Calls, told: Told) -> None:
        self._told = told
        self.news = calls.news
        self.publish: Publish = lambda change, asked=None, /: False
        """Takes what the stream brings."""
        self._calls = calls
        # Guards the three below, for memory work only.
        self._lock = threading.Lock()
        self._stream: Stream | None = None
        self._opening: Stream | None = None
        self._releases = 0
        # Since the last stream that has begun.
        self._released = False
        # What no state had, since the server could not read it. One key too many does no harm.
        self._lacking: frozenset[str] = frozenset()
        # Held by the one reader that opens a stream: the others would open the same again.
        self._opener = threading.Lock()
        # Streams in a row that the server ended at once. Of who has `_opener`.
        self._refusals = 0

    @property
    def is_running(self) -> bool:
        """Whether there is a stream that has not ended."""
        stream = self._stream
        return stream is not None and stream.error is None

    def state(self, wanted: Wanted) -> Reading:
        """The complete state; beside a stream, at a position through which the stream passes.

        What came and went between two messages of the stream would be shown otherwise, and its
        end never told.
        """
        reading = self._calls.state(wanted)
        if reading.unread:
            self._lacking |= reading.unread
        has_stream = self.is_running or self._opening is not None
        if not has_stream or reading.position.startswith(LEGACY):
            return reading
        changes = self._calls.once(wanted, reading.position)
        if changes.complete:
            return changes
        return reading_of(
            [
                Message(reading.entries, reading.position, reset=True, unread=reading.unread),
                Message(changes.entries, changes.position, unread=changes.unread),
            ]
        )

    def after(self, wanted: Wanted, since: str, asked: Selects) -> Reading:
        """What changed after `since`, from the stream, which is opened if it has to be.

        Args:
            asked: what `wanted` covers.
        """
        if since.startswith(LEGACY):
            return self._older(wanted)
        began = monotonic()
        reading = self._arrived(wanted, since, asked, began)
        if reading is not None:
            return reading
        if not self._opener.acquire(timeout=self._calls.timeout):
            raise self._calls.silence()
        try:
            # The thread that held the lock has opened a stream, perhaps the one needed here.
            arrived = self._arrived(wanted, since, asked, began)
            return arrived or self._open(wanted, since, asked)
        finally:
            self._opener.release()

    def _older(self, wanted: Wanted) -> Reading:
        """The state of an ancestor's server, whose streams only say when to look."""
        reading = self._calls.state(wanted)
        if reading.position.startswith(LEGACY):
            self._calls.older.follow([*wanted.keys, *(entry.key for entry in reading.entries)])
        # Else a server of ours took its place: the next read goes on from its cursor.
        return reading

    def release(self) -> None:
        """End the stream. One that is opened from here on shows all acknowledged before."""
        with self._lock:
            self._releases += 1
            self._released = True
            stream, self._stream = self._stream, None
        if stream is not None:
            stream.cancel()
        self._calls.older.release()
        # Who waits for the stream would miss what happens until there is another.
        self.news.set()

    def close(self) -> None:
        """End the stream and every other call, within bounded time."""
        with self._lock:
            self._releases += 1
            streams = [self._stream, self._opening]
            self._stream = self._opening = None
        running = [stream for stream in streams if stream is not None]
        self._calls.older.close()
        for stream in running:
            stream.cancel()
        # Cancels every other call that still runs.
        self._calls.connection.close()
        self.news.set()
        for stream in running:
            stream.join(JOIN)

    def _arrived(self, wanted: Wanted, since: str, asked: Selects, began: float) -> Reading | None:
        """What arrived after `since`; None if the stream is another, or there is none."""
        with self._lock:
            stream = self._stream
        if stream is None or not self._fits(stream, wanted, began):
            return None
        stream.asked = asked
        reading = stream.after(since)
        if reading is None and stream.is_past(since):
            # A faster reader is ahead. It goes on with this stream.
            return self._calls.once(wanted, since)
        return reading

    @staticmethod
    def _fits(stream: Stream, wanted: Wanted, began: float) -> bool:
        """Whether `stream` shows what a read that began then may expect of one opened for it.

        One for more was opened for a union that has grown meanwhile, or has shrunk since.
        """
        return stream.wanted == wanted or (stream.opened > began and stream.wanted.covers(wanted))

    def _open(self, wanted: Wanted, since: str, asked: Selects) -> Reading:
        """Subscribe anew, from `since` where the server knows cursors."""
        stream = self._stream
        if stream is not None and stream.error is not None:
            self._calls.metrics.reconnected()
        self._raise_if_refused()
        releases = self._releases
        stream = Stream(
            self._calls.watches.begin,
            wanted,
            since,
            told=self._told,
            changed=self._calls.metrics.received,
            position=self._calls.position,
            news=self.news,
            publish=self._published,
            lacking=sorted(self._lacking)[:MAX_KEYS],
            heartbeat=self._calls.connection.heartbeat,
        )
        stream.asked = asked
        self._begin(stream, releases)
        return stream.kept()

    def _begin(self, stream: Stream, releases: int) -> None:
        """Take `stream` for the one to read once its first message is there."""
        self._opening = stream
        try:
            if not stream.begin(self._calls.timeout) and not self._may_wait(stream):
                error = stream.error or stream.trouble
                if error is None:
                    stream.give_up()
                raise error or self._calls.silence()
        except BaseException:
            stream.cancel()
            raise
        finally:
            self._opening = None
        with self._lock:
            if releases == self._releases:
                self._released = False
                replaced, self._stream = self._stream, stream
            else:
                # Opened before `release`: it may show less than was acknowledged before that.
                replaced = stream
        if replaced is not None:
            replaced.cancel()

    def _published(self, stream: Stream, change: Written) -> bool:
        """Publish a change, if it is of the stream that is read, and no other one is opened."""
        is_read = stream is self._stream and self._opening is None
        return is_read and stream.asked is not None and self.publish(change, stream.asked)

    def _may_wait(self, stream: Stream) -> bool:
        """Whether a stream may begin later, when the backend of its server is back.

        Until then there is no news. After `release` that is not enough: somebody has read more.
        """
        return stream.error is None and stream.trouble is not None and not self._released

    def _raise_if_refused(self) -> None:
        """After a stream that the server ended at once, let the store pause before the next.

        After several in a row for longer: the state that each began with had the store try again
        as soon as ever.
        """
        with self._lock:
            stream = self._stream
            if stream is None or stream.error is None:
                return
            if not stream.refused:
                self._refusals = 0
                return
            held = min(BRIEF * ((1 << self._refusals) - 1), HELD_MOST)
            if monotonic() >= stream.ended + held:
                self._stream = None
                self._refusals = min(self._refusals + 1, MANY)
        error = translated(stream.error, self._calls.where)
        raise SourceUnavailable(f"{self._calls.where} ended the stream: {error}") from error
