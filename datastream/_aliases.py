"""YAML's aliases: a few lines may stand for more than memory holds, or for what contains itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FREE = 10_000
"""Values that a text may stand for, however short it is."""
TIMES = 10
"""Values that it may stand for beyond that, for each byte."""


def check_size(value: Any, size: int) -> None:
    """Refuse what a text of `size` bytes must not stand for.

    Raises:
        ValueError: aliases make it far larger than its text, or it contains itself.
    """
    if _count(value, {}) > FREE + TIMES * size:
        raise ValueError("its aliases stand for more values than a text of this length may")


def _count(value: Any, counts: dict[int, int]) -> int:
    """How many values there are, with each alias written out; each part is counted once."""
    if not isinstance(value, Mapping | list | tuple | set | frozenset):
        return 1
    known = counts.get(id(value))
    if known == 0:
        raise ValueError("a value contains itself")
    if known is None:
        counts[id(value)] = 0
        parts = value.values() if isinstance(value, Mapping) else value
        known = counts[id(value)] = 1 + sum(_count(part, counts) for part in parts)
    return known
