"""What of a request somebody may have: two selections at once."""

from __future__ import annotations

from collections.abc import Iterable

from datastream.selection import Selection, escape, literal_prefix

NO_KEY = "nothing"
EVERYTHING = Selection()


def nothing() -> Selection:
    """The selection of no key."""
    return Selection(keys=frozenset((NO_KEY,)), exclude=frozenset((NO_KEY,)))


def rights_of(places: Iterable[str], denied: Iterable[str]) -> Selection | None:
    """What keys, prefixes and patterns allow, less those that are denied; None for nothing.

    Raises:
        InvalidKey: one of them is none.
    """
    keys = [place for place in places if "*" not in place]
    match = [place for place in places if "*" in place]
    allowed = Selection.of(*keys, match=match, exclude=[_as_pattern(place) for place in denied])
    if allowed.everything:
        return None
    if "**" in allowed.patterns:
        return Selection(exclude=allowed.exclude)
    return allowed


def narrowed(asked: Selection, allowed: Selection) -> tuple[Selection, bool]:
    """What both select, or little more than that; True if it is just that."""
    if allowed.everything:
        return _excluding(asked, allowed.exclude), True
    if asked.everything:
        return allowed, True
    keys = {key for key in asked.keys if allowed.matches(key)}
    keys |= {key for key in allowed.keys if asked.matches(key)}
    prefixes = {one for one in asked.prefixes if _is_within(one, allowed.prefixes)}
    prefixes |= {one for one in allowed.prefixes if _is_within(one, asked.prefixes)}
    patterns = {one for one in asked.patterns if _is_covered(one, allowed)}
    patterns |= {one for one in allowed.patterns if _is_covered(one, asked)}
    more = _overlapping(asked, allowed) - prefixes - patterns
    both = Selection(
        frozenset(keys),
        frozenset(prefixes | {one for one in more if one in asked.prefixes}),
        frozenset(patterns | {one for one in more if one in asked.patterns}),
        allowed.exclude,
    )
    return (nothing() if both.everything else both), not more


def may_hold(allowed: Selection, place: str) -> bool:
    """Whether somebody who may have `allowed` may know of a key, or of something below a place."""
    if not place.endswith("/"):
        return allowed.matches(place)
    if allowed.everything:
        return True
    return any(key.startswith(place) for key in allowed.keys) or any(
        one.startswith(place) or place.startswith(one) for one in _begins(allowed)
    )


def _excluding(asked: Selection, exclude: frozenset[str]) -> Selection:
    return Selection(asked.keys, asked.prefixes, asked.patterns, exclude) if exclude else asked


def _is_within(begin: str, prefixes: Iterable[str]) -> bool:
    return any(begin.startswith(prefix) for prefix in prefixes)


def _is_covered(pattern: str, by: Selection) -> bool:
    """Whether all that a pattern matches is selected, as far as can be told at once."""
    return pattern in by.patterns or _is_within(literal_prefix(pattern), by.prefixes)


def _overlapping(asked: Selection, allowed: Selection) -> set[str]:
    """Prefixes and patterns of `asked` of which perhaps only a part is allowed."""
    begins = set(map(literal_prefix, allowed.patterns))
    parts = {one for one in asked.prefixes if _is_longer(one, begins)}
    for pattern in asked.patterns:
        begin = literal_prefix(pattern)
        below = (*allowed.prefixes, *begins)
        if _is_within(begin, begins) or any(one.startswith(begin) for one in below):
            parts.add(pattern)
    return parts


def _is_longer(prefix: str, begins: Iterable[str]) -> bool:
    return any(prefix.startswith(one) and prefix != one for one in begins)


def _begins(selection: Selection) -> set[str]:
    return {*selection.prefixes, *map(literal_prefix, selection.patterns)}


def _as_pattern(place: str) -> str:
    if "*" in place:
        return place
    return f"{escape(place)}**" if place.endswith("/") else escape(place)
