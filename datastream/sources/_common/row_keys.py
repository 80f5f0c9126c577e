"""Keys that are spread over several columns, joined by "/"."""

from __future__ import annotations

from collections.abc import Callable, Collection
from difflib import get_close_matches

from datastream.errors import DatastreamError, InvalidKey, shown

MOST_COLUMNS = 6
"""Columns of a key."""


def names_of(given: str, found: Collection[str], find: Callable[[str], str | None]) -> list[str]:
    """The columns that ``"tenant,id"`` names; what names one column is that column.

    Args:
        found: all columns there are.
        find: the column of a name, None if there is none.

    Raises:
        LookupError: there is no such column; its text names it.
    """
    whole = find(given)
    if whole is not None:
        return [whole]
    names = []
    for part in given.split(","):
        name = find(part.strip())
        if name is None:
            raise LookupError(part.strip())
        names.append(name)
    return names


def check_key_columns(names: Collection[str], where: str) -> None:
    """Refuse what cannot be a key.

    Raises:
        DatastreamError: a column is named twice, or there are too many.
    """
    if len(set(names)) < len(names):
        raise DatastreamError(f"{where}: key= names a column twice: {', '.join(names)}")
    if len(names) > MOST_COLUMNS:
        raise DatastreamError(f"{where}: a key has {MOST_COLUMNS} columns at most")


def check_value_columns(names: Collection[str], keys: Collection[str], where: str) -> None:
    """Refuse what cannot be members of an object; what could be put would move a row.

    Raises:
        DatastreamError: a column is named twice, or is one of the key.
    """
    if len(set(names)) < len(names):
        raise DatastreamError(f"{where}: value= names a column twice: {', '.join(names)}")
    for name in names:
        if name in keys:
            raise DatastreamError(f"{where}: column {name!r} is the key; leave it out of value=")


def parts_of(key: str, names: Collection[str]) -> list[str]:
    """What a key has for each column; the last one takes all that is left.

    Raises:
        InvalidKey: it has too few parts, or an empty one.
    """
    parts = key.split("/", len(names) - 1)
    if len(parts) < len(names) or not all(parts):
        raise InvalidKey(f"{shown(key)} is no key of this table; keys are {'/'.join(names)}")
    return parts


def meant(name: str, found: Collection[str]) -> str:
    """ "did you mean", where one of `found` is like `name`."""
    by_lower = {other.lower(): other for other in found}
    close = get_close_matches(name.lower(), by_lower, 1)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""
