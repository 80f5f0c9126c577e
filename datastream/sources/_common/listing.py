"""What all backends have in common that can be listed and read, and tell no more.

A look lists names with a signature each, something that changes when the content may have. Only
what is wanted and new is read. So one look at ten thousand unchanged objects costs a listing.
"""

from __future__ import annotations

import secrets
from abc import abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from hashlib import blake2b
from math import inf
from typing import NamedTuple

from datastream.entry import Capability, Entry, Operation
from datastream.errors import DatastreamError
from datastream.selection import Selects, compile_pattern, literal_prefix
from datastream.source import Reading, Source
from datastream.sources._common.file_types import type_of_name
from datastream.sources._common.wake import Bell, jittered

SCOPES = 64
"""Parts of the tree whose last listing is remembered."""
TYPES = 50_000
"""Names without extension whose type is remembered."""


class Listed(NamedTuple):
    """One name of a listing."""

    key: str
    signature: Hashable
    """Changes when the content may have; None where nothing tells, so that it has to be read."""
    revision: str = ""
    """Where the listing itself tells it; else it is the fingerprint of the content."""
    updated_at: datetime | None = None
    """Where only the listing tells it."""


class Coarse(tuple[Hashable, ...]):
    """A signature by a clock so coarse that two contents in a row may share it.

    It is believed when a content was read twice under it, at two looks.
    """


class Seen(NamedTuple):
    """A content that was read."""

    signature: Hashable
    revision: str


class ListedSource(Source):
    """The part of a Source that turns listings into readings.

    Subclasses list, get and write; what they write themselves they may `_note`.

    Args:
        interval: seconds between two looks, where nothing notifies.
        exclude: globs of what to leave out; without a slash they are about names, else about keys.
    """

    def __init__(self, interval: float, exclude: str | Iterable[str]) -> None:
        if not (isinstance(interval, int | float) and 0 < interval < inf):
            raise DatastreamError(f"interval={interval!r}: give a number of seconds above 0")
        self._interval = interval
        self._bell = Bell()
        self._excluded = Exclusion(exclude)
        self._epoch = secrets.token_hex(4)
        self._states = 0
        # Of each part of the tree: the sum over the names and signatures it had, and the
        # position that stands for it. What is the same in one part may not be in another.
        self._sums: dict[str, tuple[int, str]] = {}
        # Where those are who watch.
        self._at = ""
        # What is watched, or else what was read last.
        self._seen: dict[str, Seen] = {}
        self._watched = False
        self._types: dict[str, tuple[Hashable, str]] = {}

    def capabilities(self) -> Sequence[Capability]:
        listed = list(self._list(""))
        nameless = [item for item in listed if type_of_name(item.key) is None]
        types = self._content_types(nameless)
        found = [(i.key, type_of_name(i.key) or types.get(i.key)) for i in listed]
        # What has no type has gone since it was listed.
        return [Capability(key, name) for key, name in found if name is not None]

    def read(self, selection: Selects, since: str | None) -> Reading:
        if since is not None:
            self._watched = True
        elif not self._watched:
            self._seen.clear()
        entries, loaded, position = self._look(selection)
        if since is not None:
            self._at = position
            self._forget_gone(selection, entries)
        if since == position:
            return Reading((), position, False)
        return Reading(entries, position, True, partial(self._fill, loaded))

    def read_written(self, entries: Sequence[Entry]) -> Reading:
        # Not the position of any look: the next one will find that something has changed.
        self._at = self._next_position()
        return Reading(entries, self._at, False)

    def wait(self, timeout: float | None) -> None:
        pause = jittered(self._interval)
        self._bell.wait(pause if timeout is None else min(timeout, pause))

    def wake(self) -> None:
        self._bell.ring()

    def release(self) -> None:
        self._watched = False
        self._seen.clear()
        self._sums.clear()

    # What a backend has to do.

    @abstractmethod
    def _list(self, scope: str) -> Iterator[Listed]:
        """Every name that starts with `scope`, and perhaps more; all of them, or an error."""

    @abstractmethod
    def _get(self, keys: Sequence[str]) -> Sequence[Entry]:
        """What `keys` hold, in that order; a DELETE for what is not there any more."""

    def _get_types(self, keys: Sequence[str]) -> Mapping[str, str]:
        """Their types, told from the content; without what is not there any more."""
        entries = self._get(keys)
        return {e.key: e.value_type for e in entries if e.operation is Operation.PUT}

    # Looking.

    def _next_position(self) -> str:
        self._states += 1
        return f"{self._epoch}:{self._states}"

    def _position_of(self, part: str, total: int, *, moved: bool) -> str:
        """The position of a look at one part of the tree, which found this sum."""
        known = self._sums.get(part)
        if known is None or known[0] != total or moved:
            if len(self._sums) >= SCOPES:
                self._sums.clear()
            known = self._sums[part] = total, self._next_position()
        return known[1]

    def _forget_gone(self, selection: Selects, entries: Sequence[Entry]) -> None:
        for key in self._seen.keys() - {entry.key for entry in entries}:
            if selection.matches(key):
                del self._seen[key]

    def _look(self, selection: Selects) -> tuple[list[Entry], dict[str, Entry], str]:
        """The state of `selection`, those of its entries that had to be read, the position."""
        scope = common_scope(selection)
        total = 0
        matching = []
        for item in self._list(scope):
            total += hash((item.key, item.signature))
            if selection.matches(item.key):
                matching.append(item)
        entries, loaded, moved = self._entries(matching)
        # Where the signature may lie, the content tells: nobody may remember what it was.
        unsure = [item.key for item in matching if item.key in loaded and not self._is_seen(item)]
        total += sum(hash(loaded[key].revision) for key in unsure)
        return entries, loaded, self._position_of(scope, total, moved=moved)

    def _entries(self, listed: Sequence[Listed]) -> tuple[list[Entry], dict[str, Entry], bool]:
        seen = self._seen
        unknown = [item for item in listed if not item.revision and not self._is_seen(item)]
        loaded = {e.key: e for e in self._get([item.key for item in unknown])} if unknown else {}
        moved = False
        for item in unknown:
            entry = loaded[item.key] = _dated(loaded[item.key], item.updated_at)
            before = seen.pop(item.key, None)
            stays = before is not None and before.revision == entry.revision
            if entry.operation is Operation.PUT:
                sure = stays or not isinstance(item.signature, Coarse)
                seen[item.key] = Seen(item.signature if sure else None, entry.revision)
            moved |= before is not None and not stays
        entries = [loaded.get(item.key) or self._stub(item) for item in listed]
        return [e for e in entries if e.operation is Operation.PUT], loaded, moved

    def _is_seen(self, item: Listed) -> bool:
        seen = self._seen.get(item.key)
        return seen is not None and item.signature is not None and seen.signature == item.signature

    def _stub(self, item: Listed) -> Entry:
        revision = item.revision or self._seen[item.key].revision
        return Entry(item.key, b"", "", item.updated_at, revision)

    def _fill(self, loaded: Mapping[str, Entry], entries: Sequence[Entry]) -> list[Entry]:
        missing = [entry for entry in entries if entry.key not in loaded]
        found = self._get([entry.key for entry in missing]) if missing else ()
        pairs = zip(missing, found, strict=True)
        read = {stub.key: _dated(entry, stub.updated_at) for stub, entry in pairs}
        return [read.get(entry.key) or loaded[entry.key] for entry in entries]

    def _note(self, key: str, seen: Seen | None) -> None:
        """Remember what was written here, so that the next look need not read it."""
        if seen is None:
            self._seen.pop(key, None)
        elif self._watched:
            self._seen[key] = seen

    def _content_types(self, listed: Sequence[Listed]) -> Mapping[str, str]:
        known = self._types
        new = [
            item
            for item in listed
            if item.signature is None
            or isinstance(item.signature, Coarse)
            or known.get(item.key, ("",))[0] != item.signature
        ]
        types = self._get_types([item.key for item in new]) if new else {}
        if len(known) > TYPES:
            known.clear()
        known.update((i.key, (i.signature, types[i.key])) for i in new if i.key in types)
        old = ((item.key, known[item.key][1]) for item in listed if item.key in known)
        return {**dict(old), **types}


def _dated(entry: Entry, at: datetime | None) -> Entry:
    return entry if entry.updated_at or at is None else entry._replace(updated_at=at)


class Exclusion:
    """Names and keys that are left out."""

    def __init__(self, globs: str | Iterable[str]) -> None:
        given = globs.split(",") if isinstance(globs, str) else globs
        patterns = [glob for glob in given if glob]
        self._names = [compile_pattern(glob) for glob in patterns if "/" not in glob]
        self._keys = [compile_pattern(glob) for glob in patterns if "/" in glob]

    def __contains__(self, key: str) -> bool:
        name = key[key.rfind("/") + 1 :]
        return any(glob.fullmatch(name) for glob in self._names) or any(
            glob.fullmatch(key) for glob in self._keys
        )

    def __bool__(self) -> bool:
        return bool(self._names or self._keys)


def common_scope(selection: Selects) -> str:
    """The longest start that all keys of `selection` share."""
    starts = [*selection.keys, *selection.prefixes, *map(literal_prefix, selection.patterns)]
    if not starts:
        return ""
    first, last = min(starts), max(starts)
    pairs = enumerate(zip(first, last, strict=False))
    end = next((at for at, (one, other) in pairs if one != other), min(len(first), len(last)))
    return first[:end]


def fingerprint(value: bytes) -> str:
    """The revision of a content where the backend has none."""
    return blake2b(value, digest_size=16).hexdigest()
