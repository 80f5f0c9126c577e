"""Positions: a line of the log, or a version of a file without log, each with its epoch."""

from __future__ import annotations

from datastream.sources.sqlite.log import Line
from datastream.sources.sqlite.rows import INTEGERS


def position(epoch: str, seq: int, mark: int) -> str:
    """The position just after a line."""
    return f"{epoch}:{seq}:{mark}"


def parse(position: str) -> tuple[str, Line | None]:
    """Epoch and line of a position; no line if `position` cannot have made it."""
    epoch, _, numbers = position.partition(":")
    try:
        seq, mark = map(int, numbers.split(":"))
    except ValueError:
        return epoch, None
    fits = seq in INTEGERS and mark in INTEGERS
    return epoch, Line(seq, mark) if fits else None
