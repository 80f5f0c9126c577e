"""One look at a backend that is listed: pure in what it remembers, so that looks may overlap.

A look lists names with a signature each, something that changes when the content may have. Only
what is selected, and not known from an earlier look under the same signature, is read.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from datetime import datetime
from time import monotonic
from typing import NamedTuple

from datastream.entry import PUT, Entry
from datastream.selection import Selects, starts

COARSE_SECONDS = 2.0
"""Longest step of the clocks behind `Coarse` signatures."""
_MASK = (1 << 64) - 1


class Listed(NamedTuple):
    """One name of a listing."""

    key: str
    """One that ends in "/" stands for all below it, which cannot be listed."""
    signature: Hashable
    """Changes when the content may have; None where nothing tells, so that it has to be read."""
    revision: str = ""
    """Where the listing itself tells it; else it is the fingerprint of the content."""
    updated_at: datetime | None = None
    """Where only the listing tells it."""


class Coarse(tuple[Hashable, ...]):
    """A signature by a clock so coarse that two contents in a row may share it.

    A content is known by it once it was read `COARSE_SECONDS` after the signature was first seen:
    whatever is written later has another one.
    """


class Seen(NamedTuple):
    """A content that was read."""

    signature: Hashable
    revision: str
    first: float = 0.0
    """When the signature had been seen first, by the monotonic clock."""
    sure: bool = True
    """No other content can have the same signature."""

    def knows(self, item: Listed) -> bool:
        """Whether `item` still has this content, so that it need not be read."""
        return self.sure and item.signature is not None and self.signature == item.signature


class Look(NamedTuple):
    """What one look has found."""

    entries: list[Entry]
    """The state of the selection; those that were not read without value and type."""
    loaded: Mapping[str, Entry]
    """Those that were read."""
    seen: Mapping[str, Seen]
    """What is known now of the contents of the selection; empty where listings tell revisions."""
    total: int
    """Equal for two looks at one part of the tree only if nothing selected differs."""
    is_all: bool
    """Everything that was listed is selected."""
    unread: Mapping[str, Hashable]
    """What is selected and cannot be read, with its signature; no part of `entries`."""

    @property
    def digest(self) -> str:
        """`total` as the text of a position."""
        return digest_of(self.total)


Known = Callable[[str], Seen | None]
"""What an earlier look has seen of a key."""
Read = Callable[[Sequence[str]], Sequence[Entry]]
"""What keys hold, in their order; a DELETE for what is not there any more, `unread` for what cannot
be read."""
UNREAD = "unread"


def look(
    part: str,
    listing: Iterable[Listed],
    selection: Selects,
    known: Known,
    read: Read,
    *,
    skips: Callable[[Listed], bool] = lambda _: False,
) -> Look:
    """Turn a listing into the state of `selection`.

    Args:
        part: the name of the part of the tree that `listing` is of.
        listing: every name in that part, selected or not.
        selection: which of them are wanted.
        known: contents that need not be read again.
        read: reads contents.
        skips: what cannot be read, as is known already.
    """
    began = monotonic()
    total = hash(part)
    wanted: list[Listed] = []
    cannot: dict[str, Hashable] = {}
    is_all = True
    for item in listing:
        if item.key.endswith("/"):
            cannot[item.key] = item.signature
        elif selection.matches(item.key):
            if skips(item):
                cannot[item.key] = item.signature
            else:
                wanted.append(item)
        else:
            is_all = False
            # So that the position means the same to those who select more.
            total += hash_of(item.key, item.revision or item.signature)
    # When all signatures had been seen: a long listing shows later ones than it began with.
    listed = monotonic()
    seen: dict[str, Seen] = {}
    new = _split(wanted, known, seen)
    loaded = _loaded(new, read)
    for item in new:
        entry = loaded[item.key]
        if is_unread(entry):
            cannot[item.key] = item.signature
            seen[item.key] = Seen(None, UNREAD, listed, sure=False)
        elif entry.operation is PUT:
            seen[item.key] = _seen(item, entry, known(item.key), began, listed)
    readable = [item for item in wanted if item.key not in cannot] if cannot else wanted
    entries = [loaded.get(item.key) or _stub(item, seen) for item in readable]
    present = [entry for entry in entries if entry.operation is PUT]
    total += sum(hash_of(entry.key, entry.revision) for entry in present)
    # So that it is another position once they can be read.
    total += sum(hash_of(key, UNREAD) for key in cannot)
    return Look(present, loaded, seen, total, is_all, cannot)


def hash_of(key: str, revision: Hashable) -> int:
    """What one key adds to `Look.total`.

    A tuple's hash is all but linear in those of its parts: of two keys that have swapped their
    contents the sum would often stay the same. That of bytes is not.
    """
    return hash(hash((key, revision)).to_bytes(8, "little", signed=True))


def digest_of(total: int) -> str:
    """A total as the text of a position."""
    return f"{total & _MASK:016x}"


def unread(key: str) -> Entry:
    """What stands for a content that is there and cannot be read."""
    return Entry(key, b"", "")


def is_unread(entry: Entry) -> bool:
    """Whether it stands for a content that is there and cannot be read."""
    return entry.operation is PUT and not entry.value_type


def fill(loaded: Mapping[str, Entry], read: Read, entries: Sequence[Entry]) -> list[Entry]:
    """`entries` with values and types; those not `loaded` already are read.

    What cannot be read is left out.
    """
    missing = [entry for entry in entries if entry.key not in loaded]
    found = read([entry.key for entry in missing]) if missing else ()
    pairs = zip(missing, found, strict=True)
    new = {stub.key: dated(entry, stub.updated_at) for stub, entry in pairs}
    filled = [new.get(entry.key) or loaded[entry.key] for entry in entries]
    return [entry for entry in filled if not is_unread(entry)]


def dated(entry: Entry, at: datetime | None) -> Entry:
    """`entry` with the time that its listing told, unless it has one."""
    return entry if entry.updated_at or at is None else entry._replace(updated_at=at)


def common_scope(selection: Selects) -> str:
    """The longest start that all keys of `selection` share."""
    begins = [*selection.keys, *starts(selection)]
    if not begins:
        return ""
    first, last = min(begins), max(begins)
    pairs = enumerate(zip(first, last, strict=False))
    end = next((at for at, (one, other) in pairs if one != other), min(len(first), len(last)))
    return first[:end]


def _split(wanted: Sequence[Listed], known: Known, seen: dict[str, Seen]) -> list[Listed]:
    """Note what is known in `seen`; returns what has to be read."""
    new = []
    for item in wanted:
        if item.revision:
            continue
        before = known(item.key)
        if before is not None and before.knows(item):
            seen[item.key] = before
        else:
            new.append(item)
    return new


def _loaded(items: Sequence[Listed], read: Read) -> dict[str, Entry]:
    found = read([item.key for item in items]) if items else ()
    pairs = zip(items, found, strict=True)
    return {item.key: dated(entry, item.updated_at) for item, entry in pairs}


def _seen(item: Listed, entry: Entry, before: Seen | None, began: float, listed: float) -> Seen:
    signature = item.signature
    if signature is None:
        return Seen(None, entry.revision, listed, sure=False)
    if not isinstance(signature, Coarse):
        return Seen(signature, entry.revision, listed)
    same = before is not None and before.signature == signature
    first = before.first if before is not None and same else listed
    return Seen(signature, entry.revision, first, sure=began - first >= COARSE_SECONDS)


def _stub(item: Listed, seen: Mapping[str, Seen]) -> Entry:
    revision = item.revision or seen[item.key].revision
    return Entry(item.key, b"", "", item.updated_at, revision)
