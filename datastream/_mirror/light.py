"""A store whose values are digests, so that a mirror of large values never holds one.

Over one store each: what the mirror compares and follows are digests, and what it writes is copied
in pieces from the one to the other.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Hashable, Iterable, Iterator, Sequence
from hashlib import blake2b, md5

from datastream.entry import Capability, Entry, deleted
from datastream.errors import DatastreamError, InvalidKey, KeyNotFound, shown
from datastream.selection import Selection, Selects, is_reserved
from datastream.source import Feature, HasStreams, HasSummaries, Reading, Source, Summary, Write
from datastream.sources._common.digests import digest_of
from datastream.store import Store

LARGE = 32 << 20
"""Bytes of a value from which a mirror copies in pieces unless it is told otherwise."""
INTERVAL = 1.0
"""Seconds between two looks."""


def can_stream(store: Store) -> bool:
    """Whether its values can be listed without being read, and copied in pieces."""
    return isinstance(store._source, HasSummaries) and isinstance(store._source, HasStreams)


def has_large(store: Store, selection: Selection) -> bool:
    """Whether a value is so large that it should not be held in memory."""
    source = store._source
    if not isinstance(source, HasSummaries):
        return False
    found = store._core.call(None, lambda: list(source.summaries(selection)))
    return any((summary.size or 0) > LARGE for summary in found if selection.matches(summary.key))


class LightSource(Source):
    """A Source over a store, whose values are the digests of that one's.

    Args:
        store: its values are listed and copied; it stays open.
        origin: from which store `write` copies; None if it is not written.
        interval: seconds between two looks.
    """

    algorithm = "etag"
    """The one that buckets list."""

    def __init__(
        self, store: Store, origin: LightSource | None = None, interval: float = INTERVAL
    ) -> None:
        self.store = store
        self._origin = origin
        self._interval = interval
        self._woken = threading.Event()
        self._epoch = secrets.token_hex(4)
        self._known: dict[str, tuple[Hashable, str]] = {}
        can_write = origin is not None and Feature.WRITE in store.features
        self.features = frozenset({Feature.WRITE} if can_write else ())

    def capabilities(self) -> Sequence[Capability]:
        return [Capability(entry.key, "") for entry in self.read(Selection(), None).entries]

    def read(self, selection: Selects, since: str | None) -> Reading:
        entries: list[Entry] = []
        unread: set[str] = set()
        for summary in self._summaries(selection):
            digest = "" if summary.key.endswith("/") else self._digest(summary)
            if digest:
                entries.append(_light(summary.key, digest))
            else:
                unread.add(summary.key)
        position = self._position(entries, unread)
        if position == since:
            return Reading((), position, False)
        return Reading(entries, position, True, unread=frozenset(unread))

    def get(self, key: str) -> Entry | None:
        return self.store._core.get(key) if is_reserved(key) else super().get(key)

    def wait(self, timeout: float | None) -> None:
        self._woken.wait(self._interval if timeout is None else min(timeout, self._interval))
        self._woken.clear()

    def wake(self) -> None:
        self._woken.set()

    def write(self, writes: Sequence[Write]) -> Sequence[Entry]:
        # Deletes first: they may make room.
        done = {write.key: self._write(write) for write in sorted(writes, key=_is_put)}
        return [done[write.key] for write in writes]

    def close(self) -> None:
        self._woken.set()

    # Digests.

    def _summaries(self, selection: Selects) -> Iterable[Summary]:
        source = self.store._source
        if not isinstance(source, HasSummaries):
            raise DatastreamError(f"{self.store.name} cannot be listed without its values")
        found = self.store._core.call(None, lambda: list(source.summaries(selection)))
        return [s for s in found if s.key.endswith("/") or selection.matches(s.key)]

    def _digest(self, summary: Summary) -> str:
        if summary.digest.startswith(f"{self.algorithm}:"):
            return summary.digest
        signature, digest = self._known.get(summary.key, (None, ""))
        if signature is None or signature != summary.signature:
            digest = self._computed(summary)
            self._known[summary.key] = summary.signature, digest
        return digest

    def _computed(self, summary: Summary) -> str:
        """The digest of a value, which is read in pieces; "" if it is gone, or cannot be read."""
        source, key = self.store._source, summary.key
        if isinstance(source, HasSummaries):
            digest = self.store._core.call(key, source.digest, key, self.algorithm)
            if digest:
                return digest
        try:
            return digest_of(self.algorithm, summary.size or 0, self.pieces(key))
        except (DatastreamError, OSError):
            return ""

    def _position(self, entries: Sequence[Entry], unread: set[str]) -> str:
        state = sorted([(entry.key, entry.revision) for entry in entries])
        text = repr((state, sorted(unread))).encode("utf-8", "surrogatepass")
        return f"{self._epoch}:{blake2b(text, digest_size=12).hexdigest()}"

    # Copying.

    def pieces(self, key: str) -> Iterator[bytes]:
        """The value of the store in pieces."""
        source = self.store._source
        if not isinstance(source, HasStreams):
            raise DatastreamError(f"{self.store.name} cannot be read in pieces")
        return self.store._core.iterate(key, lambda: source.pieces(key))

    def _write(self, write: Write) -> Entry:
        core = self.store._core
        if write.value is None or is_reserved(write.key):
            return core.write((write,))[0]
        return self._copy(write.key)

    def _copy(self, key: str) -> Entry:
        source = self.store._source
        if self._origin is None or not isinstance(source, HasStreams):
            raise InvalidKey(f"{shown(key)}: {self.store.name} cannot be written in pieces")
        copied = _Copied(self._origin.pieces(key))
        try:
            self.store._core.call(key, source.put_pieces, key, copied)
        except KeyNotFound:
            # It has gone at the source, whose next look tells.
            return deleted(key)
        self._known.pop(key, None)
        return _light(key, copied.digest)


class _Copied:
    """Pieces on their way, and what was copied of them."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self.digest = ""

    def __iter__(self) -> Iterator[bytes]:
        hasher = md5(usedforsecurity=False)
        for piece in self._pieces:
            hasher.update(piece)
            yield piece
        self.digest = f"{LightSource.algorithm}:{hasher.hexdigest()}"


def _light(key: str, digest: str) -> Entry:
    return Entry(key, digest.encode(), "bytes", None, digest)


def _is_put(write: Write) -> bool:
    return write.value is not None
