"""How ``dict(view)`` gets values of one moment, although Python looks up key by key.

``dict(view)`` and ``{**view}`` take all keys and then all values, in that order, within one
instruction of the calling frame. No other program does. So the keys leave the values of their
moment here, and a look-up by that instruction, in that thread, for that key, gets them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, KeysView
from threading import get_ident
from time import monotonic
from types import FrameType
from typing import Any, NamedTuple

EXPIRES = 1.0
"""Seconds after which what no look-up came for is dropped; until then others pay a glance."""

NOWHERE: Any = object()


class _Given(NamedTuple):
    values: dict[str, Any]
    left: Iterator[str]
    last: str
    place: tuple[int, int]
    until: float


Given = dict[int, _Given]
"""By thread; empty but while a dict is made of the view."""


class Keys(KeysView[str]):
    """The keys of one moment, which leave their values to ``dict(view)``.

    Args:
        values: of that moment.
        given: of the view, by thread.
    """

    def __init__(self, values: dict[str, Any], given: Given) -> None:
        super().__init__(values)
        self._values = values
        self._given = given

    def __iter__(self) -> Iterator[str]:
        yield from self._values
        if self._values:
            place = _place(sys._getframe(1))
            until = monotonic() + EXPIRES
            last = next(reversed(self._values))
            left = iter(self._values)
            self._given[get_ident()] = _Given(self._values, left, last, place, until)


def take(given: Given, key: str, frame: FrameType) -> Any:
    """The value left for this look-up, `NOWHERE` if none is."""
    thread = get_ident()
    mine = given.get(thread)
    if mine is None:
        now = monotonic()
        for other, one in given.copy().items():
            if now > one.until:
                given.pop(other, None)
        return NOWHERE
    if next(mine.left, None) is not key or mine.place != _place(frame):
        given.pop(thread, None)
        return NOWHERE
    if key is mine.last:
        given.pop(thread, None)
    return mine.values[key]


def _place(frame: FrameType) -> tuple[int, int]:
    return id(frame), frame.f_lasti
