"""One running watch of a server, whose messages are kept until they are read."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from datastream import Entry
from datastream._columns import Gathered
from datastream.entry import PUT
from datastream.selection import Selection, Selects
from datastream.source import Reading, Written
from datastream_grpc import _convert
from datastream_grpc._carriers import ENDED, Running, Sink
from datastream_grpc._limits import Limits
from datastream_grpc._pb import service_pb2 as pb

BRIEF = 0.2
"""Seconds; a stream that the server ends sooner counts as refused."""
KEPT = 1000
"""Messages kept one by one; beyond, only the newest entry of each key is."""
PATIENCE = 0.5
"""Seconds that a stream gets to begin once the server has said that its backend is away."""
REMEMBERED = 128
"""Positions before `Stream`'s oldest message that are still known to lie before it."""


LIMITS = Limits()

Told = Callable[[pb.DescribeResponse], Exception | None]
"""Takes what a server says of itself; returns why its store is not well, None if it is."""


class Wanted(NamedTuple):
    """What is asked of the server: a selection, or more than that where it is too large to send."""

    keys: frozenset[str]
    prefixes: frozenset[str]
    patterns: frozenset[str]

    @classmethod
    def of(cls, selection: Selects, limits: Limits = LIMITS) -> Wanted:
        """What to ask of a server with `limits`."""
        wanted = cls(selection.keys, selection.prefixes, selection.patterns)
        fits = (
            len(wanted.keys) + len(wanted.prefixes) <= limits.keys
            and len(wanted.patterns) <= limits.patterns
            and sum(map(len, wanted.patterns)) <= limits.pattern_chars
        )
        # The store drops what it did not ask for.
        return wanted if fits else EVERYTHING

    def covers(self, other: Wanted) -> bool:
        """Whether all that `other` selects is selected."""
        return self in (other, EVERYTHING) or (
            other != EVERYTHING
            and other.keys <= self.keys
            and other.prefixes <= self.prefixes
            and other.patterns <= self.patterns
        )

    def has_keys_only(self) -> bool:
        """Whether it names each key."""
        return bool(self.keys) and not (self.prefixes or self.patterns)

    def selection(self) -> Selection:
        """The same as a selection."""
        return Selection(self.keys, self.prefixes, self.patterns)

    def request(self, since: str = "", **fields: Any) -> pb.DataRequest:
        return pb.DataRequest(
            keys=[*self.keys, *self.prefixes],
            match=list(self.patterns),
            # A cursor may be any text, and is of no server if the wire cannot carry it.
            since=_convert.as_utf8(since),
            **fields,
        )


EVERYTHING = Wanted(frozenset(), frozenset(), frozenset())


class Message(NamedTuple):
    """A batch as received."""

    entries: Sequence[Entry]
    position: str
    """Where the backend is after it."""
    reset: bool = False
    """The full state instead of what changed."""
    created: frozenset[str] = frozenset()
    """Keys of `entries` that held nothing before it."""
    author: str = ""
    message: str = ""
    point: str = ""
    unread: frozenset[str] = frozenset()
    """Keys that the server could not read."""


class Stream:
    """Messages as they arrive, kept until a reader's ``since`` shows that it has them.

    Args:
        subscribe: begins the watch, which brings its messages to a sink.
        told: takes what the server says of itself.
        changed: takes the entries of each batch after the first.
        wanted: what it is opened for.
        since: the position from which it goes on.
        position: gives the position of a message by its cursor.
        news: set whenever a message has to be read, or the call ended.
        publish: takes a change with the stream that brings it; False if it has to be read.
        lacking: what could not be read of the state at `since`.
        heartbeat: seconds after which the server tells how far its store is; 0 for never.
    """

    def __init__(
        self,
        subscribe: Callable[[pb.DataRequest, Sink], Running],
        wanted: Wanted,
        since: str,
        *,
        told: Told,
        changed: Callable[[Sequence[Entry]], None],
        position: Callable[[str], str],
        news: threading.Event,
        publish: Callable[[Stream, Written], bool],
        lacking: Collection[str] = (),
        heartbeat: float = 0.0,
    ) -> None:
        self.wanted = wanted
        self.opened = time.monotonic()
        """When the call began: it shows all that was acknowledged before."""
        self.error: Exception | None = None
        """Why the call ended, once it has."""
        self.refused = False
        """The server ended the call within `BRIEF` seconds."""
        self.ended = 0.0
        """When."""
        self.trouble: Exception | None = None
        """Why the backend of the server is away, if the server says so."""
        self.asked: Selects | None = None
        """What it was last read for, all of which it brings."""
        self._told, self._changed = told, changed
        self._position = position
        self._news = news
        self._publish = publish
        # For memory work only: the thread that reads the call must never wait for a reader.
        self._lock = threading.Lock()
        self._base = since
        self._messages: list[Message] = []
        self._past: deque[str] = deque(maxlen=REMEMBERED)
        self._has_begun = False
        # Set when it begins or ends, and when the server describes itself, until `begin` sees it.
        self._stirred = threading.Event()
        self._received = 0
        self._parts = _convert.Parts()
        # The last, as its messages come on another thread at once.
        self._running = subscribe(
            wanted.request(
                deletes=True,
                since=since,
                describe=True,
                lacking=lacking,
                columns=True,
                heartbeat=heartbeat,
            ),
            self,
        )

    def begin(self, timeout: float) -> bool:
        """Wait for the message that begins the stream; False if there is none.

        Then `error` or `trouble` says why, or nothing at all arrived within `timeout` seconds. A
        large first message takes as long as its parts take.
        """
        while not self._has_begun:
            received = self._received
            has_stirred = self._stirred.wait(PATIENCE if self.trouble else timeout)
            self._stirred.clear()
            if not has_stirred and received == self._received:
                break
        with self._lock:
            return bool(self._messages)

    def after(self, since: str) -> Reading | None:
        """What changed after `since`; None if this stream cannot tell, or ended with that.

        ``since`` shows what the reader has: all messages up to that position are given up.
        """
        with self._lock:
            if not self._give_up(since):
                return None
            reading = self._reading()
            # What else has happened, only another stream tells.
            return None if self.error is not None and reading.position == since else reading

    def kept(self) -> Reading:
        """Everything since the stream's beginning that no reader has shown to have."""
        with self._lock:
            return self._reading()

    def is_past(self, since: str) -> bool:
        """Whether the stream went on from `since`, and has given up what came after it."""
        with self._lock:
            return since != self._base and since in self._past

    def cancel(self) -> None:
        """End the watch."""
        self._running.cancel()

    def give_up(self) -> None:
        """End the watch that has not begun, and the call that should have brought it."""
        self._running.give_up()

    def join(self, timeout: float) -> None:
        """Wait for the thread of a watch that was cancelled, if it has one."""
        self._running.join(timeout)

    # As a sink, on the thread that brings the messages.

    def take(self, received: pb.DataResponse) -> None:
        """Take in a message."""
        if received.HasField("description"):
            self.trouble = self._told(received.description)
            self._stirred.set()
            return
        self._received += 1
        whole = self._parts.add(received)
        if whole is None:
            return
        message = message_of(whole, self._position(whole.cursor))
        before = self._keep(message)
        if not self._has_begun:
            self._has_begun = True
            self._stirred.set()
            self._news.set()
            return
        if message.entries:
            self._changed(message.entries)
        if not self._is_published(message, before):
            self._news.set()

    def _is_published(self, message: Message, before: str | None) -> bool:
        """Publish what changed from the position `before`; False if it has to be read."""
        if before is None or message.reset or message.unread:
            return False
        about = message.author, message.message, message.point
        if not self._publish(self, Written(message.entries, message.position, before, *about)):
            return False
        with self._lock:
            # It began where the readers are. The message itself stays for one that reads just now.
            self._give_up(before)
        return True

    def end(self, error: Exception) -> None:
        """Take in that the watch has ended."""
        self.ended = time.monotonic()
        self.refused = self.ended - self.opened < BRIEF
        with self._lock:
            self.error = error
        self._has_begun = True
        self._stirred.set()
        self._news.set()

    def _give_up(self, since: str) -> bool:
        # At the oldest place: several messages may have one position, where the server published
        # a part of what lies between two. What a reader has already is no news to it.
        if since == self._base:
            return True
        messages = self._messages
        for index, message in enumerate(messages):
            if message.position == since:
                self._past.append(self._base)
                self._past.extend(given.position for given in messages[:index])
                self._base = since
                del messages[: index + 1]
                return True
        return False

    def _keep(self, message: Message) -> str | None:
        """Keep it until it is read; the position before it, see `_end`."""
        with self._lock:
            before = self._end()
            self._messages.append(message)
            if len(self._messages) > KEPT:
                # Readers go on from the first or the last position; others subscribe anew.
                merged = reading_of(self._messages)
                self._messages = [
                    Message(*merged[:3], created=merged.created, unread=merged.unread)
                ]
        return before

    def _end(self) -> str | None:
        """The position after all messages; None if who is there may lack what some of them brought.

        That is where several have it: one of them may not have been read.
        """
        messages = self._messages
        position = messages[-1].position if messages else self._base
        at_end = list(takewhile(lambda kept: kept.position == position, reversed(messages)))
        if at_end and (len(at_end) < len(messages) or self._base != position):
            # This one led there.
            at_end.pop()
        return None if any(kept.entries for kept in at_end) else position

    def _reading(self) -> Reading:
        messages = self._messages
        return reading_of(messages) if messages else Reading((), self._base, False)


class StateParts:
    """Puts a complete state together that comes in parts, each decoded as it comes."""

    def __init__(self) -> None:
        self._gathered = Gathered()
        self._last = pb.DataResponse(partial=True)

    def add(self, message: pb.DataResponse) -> None:
        """Take the next part."""
        self._gathered.add(_convert.entries_of(message))
        self._last = message

    def reading(self) -> Reading:
        """The state.

        Raises:
            EOFError: its last part has not come.
        """
        last = self._last
        if last.partial:
            raise EOFError(ENDED)
        unread = frozenset(last.unread)
        return Reading(self._gathered.entries(), last.cursor, complete=True, unread=unread)


def reading_of(messages: Sequence[Message]) -> Reading:
    """What messages that follow each other say together."""
    reset = any(message.reset for message in messages)
    position = messages[-1].position
    unread = frozenset().union(*(message.unread for message in messages))
    if reset:
        # A state has no deletes.
        puts = [entry for entry in _newest(messages) if entry.operation is PUT]
        return Reading(puts, position, complete=True, unread=unread)
    changing = [message for message in messages if message.entries]
    if len(changing) > 1:
        return Reading(
            _newest(changing), position, False, created=_created(changing), unread=unread
        )
    only = changing[0] if changing else messages[0]
    return Reading(
        only.entries,
        position,
        False,
        author=only.author,
        message=only.message,
        point=only.point,
        created=only.created,
        unread=unread,
    )


def message_of(received: pb.DataResponse, position: str) -> Message:
    """A message of the wire that is a whole batch."""
    return Message(
        _convert.entries_of(received),
        position,
        received.reset,
        frozenset(received.created),
        received.author,
        received.message,
        received.point,
        frozenset(received.unread),
    )


def _created(messages: Iterable[Message]) -> frozenset[str]:
    """Keys that held nothing before the first message: what the first one says that has the key."""
    seen: set[str] = set()
    created: set[str] = set()
    for message in messages:
        created |= message.created - seen
        seen.update(entry.key for entry in message.entries)
    return frozenset(created)


def _newest(messages: Iterable[Message]) -> list[Entry]:
    """The newest entry of each key; what precedes a full state does not count."""
    entries: dict[str, Entry] = {}
    for message in messages:
        if message.reset:
            entries.clear()
        for entry in message.entries:
            entries.pop(entry.key, None)
            entries[entry.key] = entry
    return list(entries.values())
