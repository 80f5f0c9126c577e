"""Positions of an overlay: how often its layers were applied, and the cursor of each.

The count tells, within one epoch, exactly what has changed. The cursors are for a position of
another process, or of before a restart: each layer then says what has changed since its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

MOST_DIGITS = 20
"""Longest number in a position."""


class Place(NamedTuple):
    """A position, taken apart."""

    epoch: str
    """Of the table that counted; "" where the layers were read without one."""
    sequence: int
    cursors: tuple[str, ...]
    """One for each layer; "" for a layer that was missing."""


def spell(epoch: str, sequence: int, cursors: Sequence[str]) -> str:
    """A position as text."""
    return f"{epoch}:{sequence}:{''.join(map(spell_cursor, cursors))}"


def spell_cursor(cursor: str) -> str:
    """A cursor in a position: its length is before it, so that it may hold anything."""
    return f"{len(cursor)}:{cursor}"


def parse(position: str, layers: int) -> Place | None:
    """A position taken apart; None if `spell` cannot have made it for so many layers."""
    epoch, _, rest = position.partition(":")
    number, _, rest = rest.partition(":")
    sequence = _number(number)
    cursors = []
    while rest:
        number, _, rest = rest.partition(":")
        length = _number(number)
        if length is None or length > len(rest):
            return None
        cursors.append(rest[:length])
        rest = rest[length:]
    if sequence is None or len(cursors) != layers:
        return None
    return Place(epoch, sequence, tuple(cursors))


def count_of(position: str, epoch: str) -> int | None:
    """How much the table of `epoch` had counted at a position; None if it is another one's."""
    of, _, rest = position.partition(":")
    return _number(rest.partition(":")[0]) if of == epoch else None


def _number(digits: str) -> int | None:
    # A client may have made it up: int() refuses thousands of digits, and takes odd ones.
    if not digits or len(digits) > MOST_DIGITS or not (digits.isascii() and digits.isdecimal()):
        return None
    return int(digits)
