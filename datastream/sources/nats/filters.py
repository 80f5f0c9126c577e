"""A selection as the subjects that a server sends: all of it, and as little more as may be."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from datastream.selection import Selects
from datastream.sources.nats.keys import prefix_to_subject, to_subject

MOST, MOST_BYTES = 32, 16_384
"""Filters of one consumer; beyond, everything is sent, and the store drops what nobody selects."""
ALL = (">",)

_WILD = frozenset("*?[{")
Tokens = tuple[str, ...]


def filters_of(selection: Selects) -> Tokens:
    """The subjects that cover a selection, none of which overlaps another, as servers want it."""
    return _filters(selection.keys, selection.prefixes, selection.patterns)


@lru_cache(maxsize=64)
def _filters(keys: frozenset[str], prefixes: frozenset[str], patterns: frozenset[str]) -> Tokens:
    # The poller asks for the same again and again.
    count = len(keys) + len(prefixes) + len(patterns)
    if not 0 < count <= MOST:
        return ALL
    subjects = [
        *map(to_subject, keys),
        *map(prefix_to_subject, prefixes),
        *map(pattern_to_subject, patterns),
    ]
    if sum(map(len, subjects)) > MOST_BYTES:
        return ALL
    return tuple(sorted(".".join(tokens) for tokens in _apart(s.split(".") for s in subjects)))


def pattern_to_subject(pattern: str) -> str:
    """The subjects of all keys that match a glob, and perhaps of others."""
    *folders, last = pattern.split("/")
    tokens: list[str] = []
    for segment in folders:
        if "**" in segment:
            return ".".join([*tokens, ">"])
        is_wild = not _WILD.isdisjoint(segment)
        tokens.append("*" if is_wild else prefix_to_subject(f"{segment}/")[:-2])
    if "**" in last:
        return ".".join([*tokens, ">"])
    return ".".join([*tokens, "*" if not _WILD.isdisjoint(last) else to_subject(last)])


def _apart(subjects: Iterable[list[str]]) -> list[Tokens]:
    """The same subjects, or wider ones, where two have some in common."""
    found: list[Tokens] = []
    for subject in subjects:
        new = tuple(subject)
        while (other := next((one for one in found if _overlap(one, new)), None)) is not None:
            found.remove(other)
            new = _union(other, new)
        found.append(new)
    return found


def _overlap(one: Tokens, other: Tokens) -> bool:
    for a, b in zip(one, other, strict=False):
        if ">" in (a, b):
            return True
        if a != b and "*" not in (a, b):
            return False
    return len(one) == len(other)


def _union(one: Tokens, other: Tokens) -> Tokens:
    """One of both that covers the other, else what both begin with."""
    if _covers(one, other):
        return one
    if _covers(other, one):
        return other
    common: list[str] = []
    for a, b in zip(one, other, strict=False):
        if a != b or a in ("*", ">"):
            break
        common.append(a)
    return (*common, ">")


def _covers(one: Tokens, other: Tokens) -> bool:
    for a, b in zip(one, other, strict=False):
        if a == ">":
            return True
        if b == ">" or a not in ("*", b):
            return False
    return len(one) == len(other)
