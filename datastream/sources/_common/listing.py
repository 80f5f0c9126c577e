"""What all backends have in common that can be listed and read, and tell no more.

Looks may overlap each other and writes. They share nothing but what contents are known by their
signatures; the position of a look is a digest of what it listed.
"""

from __future__ import annotations

import secrets
import threading
from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from hashlib import blake2b
from math import inf

from datastream.entry import PUT, Capability, Entry
from datastream.errors import DatastreamError
from datastream.selection import Selects, compile_pattern
from datastream.source import WELL, Health, Reading, Source, Written
from datastream.sources._common.file_types import type_of_name
from datastream.sources._common.look import (
    Coarse,
    Listed,
    Look,
    Read,
    Seen,
    common_scope,
    fill,
    is_unread,
    look,
)
from datastream.sources._common.unread import Unread
from datastream.sources._common.wake import WakeEvent, jittered

TYPES = 50_000
"""Names without extension whose type is remembered."""


class ListedSource(Source):
    """The part of a Source that turns listings into readings. Subclasses list, get and write.

    Args:
        interval: seconds between two looks, where nothing notifies.
        exclude: globs of what to leave out; without a slash they are about names, else about keys.
        where: what log lines call it.
    """

    def __init__(self, interval: float, exclude: str | Iterable[str], where: str = "") -> None:
        if not (isinstance(interval, int | float) and 0 < interval < inf):
            raise DatastreamError(f"interval={interval!r}: give a number of seconds above 0")
        self._interval = interval
        self._wake = WakeEvent()
        self._excluded = Exclusion(exclude)
        self._epoch = secrets.token_hex(4)
        self._memory = Memory()
        self._types = Types()
        self._unread = Unread(where)

    def capabilities(self) -> Sequence[Capability]:
        listed = list(self._list(""))
        readable = [item for item in listed if not item.key.endswith("/") and not self._skips(item)]
        found = self._types.tell(readable, self._get_types)
        self._unread.tried({item.key: item.signature for item in readable})
        self._report_health()
        return found

    def read(self, selection: Selects, since: str | None) -> Reading:
        scope = common_scope(selection)
        known = self._memory.known
        with self._looking(scope) as (listing, get):
            found = look(scope, listing, selection, known, get, skips=self._skips)
        self._memory.learn(found, selection, watched=since is not None)
        self._note_unread(found, selection, scope)
        position = self._position_of(found)
        if since == position:
            return Reading((), position, complete=False)
        load = partial(self._load, found.loaded)
        return Reading(found.entries, position, True, load, unread=frozenset(found.unread))

    def get(self, key: str) -> Entry | None:
        entry = self._get([key])[0]
        self._report_health()
        if is_unread(entry):
            raise self._unread.error(key)
        return entry if entry.operation is PUT else None

    def wait(self, timeout: float | None) -> None:
        pause = jittered(self._interval)
        self._wake.wait(pause if timeout is None else min(timeout, pause))

    def wake(self) -> None:
        self._wake.set()

    def release(self) -> None:
        self._memory.clear()

    # Comparing with other stores.

    def contents(self, keys: Sequence[str]) -> Sequence[Entry]:
        """What `keys` hold; without what is gone, or cannot be read."""
        found = [entry for entry in self._get(keys) if entry.operation is PUT]
        self._report_health()
        return [entry for entry in found if not is_unread(entry)]

    def digest(self, key: str, algorithm: str) -> str:
        """Nothing: to compute one, the whole value would have to be sent here."""
        return ""

    def differing(self, other: Source, selection: Selects) -> None:
        """Nothing tells but listings."""

    # What a backend has to do.

    @contextmanager
    def _looking(self, scope: str) -> Iterator[tuple[Iterable[Listed], Read]]:
        """What `_list` lists, and what reads contents for it: nothing that is older."""
        yield self._list(scope), self._get

    @abstractmethod
    def _list(self, scope: str) -> Iterator[Listed]:
        """Every name that starts with `scope`, and perhaps more; all of them, or an error."""

    @abstractmethod
    def _get(self, keys: Sequence[str]) -> Sequence[Entry]:
        """What `keys` hold, in that order; a DELETE for what is not there any more.

        One that cannot be read, while others can, is added to `_unread`, and given as `unread`.
        """

    def _get_types(self, keys: Sequence[str]) -> Mapping[str, str]:
        """Their types, told from the content; without what is not there any more."""
        entries = self._get(keys)
        return {e.key: e.value_type for e in entries if e.value_type}

    # What cannot be read.

    def _skips(self, item: Listed) -> bool:
        return self._unread.skips(item.key, item.signature)

    def _load(self, loaded: Mapping[str, Entry], entries: Sequence[Entry]) -> Sequence[Entry]:
        filled = fill(loaded, self._get, entries)
        if len(filled) < len(entries):
            # Where listings tell revisions, these are the signatures.
            self._unread.tried({entry.key: entry.revision for entry in entries})
        self._report_health()
        return filled

    def _note_unread(self, found: Look, selection: Selects, scope: str) -> None:
        """Take in what a look at `selection` could not read, and what has gone."""
        unread = self._unread
        unread.tried(found.unread)
        if unread:
            listed = found.unread.keys() | {entry.key for entry in found.entries}
            unread.keep(listed, lambda key: key.startswith(scope) and selection.matches(key))
        self._report_health()

    def _why_degraded(self) -> str:
        return self._unread.degraded

    def _report_health(self) -> None:
        degraded = self._why_degraded()
        if self.health.degraded != degraded:
            self.health = Health(degraded=degraded) if degraded else WELL

    # Positions.

    def _position_of(self, found: Look) -> str:
        return f"{self._epoch}:{found.digest}"

    def _new_position(self) -> str:
        """A position that is no look's: the next look will find that something has changed."""
        return f"{self._epoch}:{secrets.token_hex(8)}-"

    def _written(self, entries: Sequence[Entry]) -> Written:
        return Written(entries, self._new_position())


class Memory:
    """The contents that are known by their signatures. What it forgets is only read again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[str, Seen] = {}
        self._is_watched = False
        # What the last read has found while nothing was watched: a watch may begin with it.
        self._recent: Mapping[str, Seen] = {}

    def known(self, key: str) -> Seen | None:
        """What was seen of a key."""
        return self._watched.get(key) or self._recent.get(key)

    def learn(self, found: Look, selection: Selects, *, watched: bool) -> None:
        """Remember what a look has found, if only until the next one where nothing is watched."""
        with self._lock:
            self._is_watched |= watched
            if not self._is_watched:
                self._recent = found.seen
            elif watched:
                self._recent = {}
                for key in self._watched.keys() - found.seen.keys():
                    if selection.matches(key):
                        del self._watched[key]
                self._watched.update(found.seen)

    def clear(self) -> None:
        """Nothing is watched any more."""
        with self._lock:
            self._is_watched = False
            self._watched, self._recent = {}, {}

    def __len__(self) -> int:
        return len(self._watched) + len(self._recent)


class Types:
    """The types of names that do not tell them, as far as they are known by signatures."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Hashable, str]] = {}

    def tell(
        self,
        listing: Iterable[Listed],
        read_types: Callable[[Sequence[str]], Mapping[str, str]],
    ) -> list[Capability]:
        """What a store lists: every name with its type."""
        listed = list(listing)
        types = self._of_contents(
            [item for item in listed if type_of_name(item.key) is None], read_types
        )
        found = [(i.key, type_of_name(i.key) or types.get(i.key)) for i in listed]
        # What has no type has gone since it was listed.
        return [Capability(key, name) for key, name in found if name is not None]

    def _of_contents(
        self,
        listed: Sequence[Listed],
        read_types: Callable[[Sequence[str]], Mapping[str, str]],
    ) -> dict[str, str]:
        known = {item.key: self._type_of(item) for item in listed}
        new = [item for item in listed if known[item.key] is None]
        types = read_types([item.key for item in new]) if new else {}
        with self._lock:
            if len(self._known) > TYPES:
                self._known.clear()
            self._known.update((i.key, (i.signature, types[i.key])) for i in new if i.key in types)
        return {**{key: name for key, name in known.items() if name is not None}, **types}

    def _type_of(self, item: Listed) -> str | None:
        if item.signature is None or isinstance(item.signature, Coarse):
            return None
        signature, name = self._known.get(item.key, (None, None))
        return name if signature == item.signature else None


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


def fingerprint(value: bytes) -> str:
    """The revision of a content where the backend has none."""
    return blake2b(value, digest_size=16).hexdigest()
