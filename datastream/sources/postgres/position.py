"""Positions in a change log: what a reading saw, as text that cannot be made up.

A position is the snapshot of a reading, the newest line of the log that it saw, and what they
belong to. What the snapshot of now sees and that one did not is what changed since: exact for
transactions that commit late, and never half of one.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import NamedTuple

_NUMBER = r"(0|[1-9][0-9]{0,19})"
_FORM = re.compile(rf"{_NUMBER}:{_NUMBER}:((?:{_NUMBER}(?:,{_NUMBER})*)?)/{_NUMBER}\.{_NUMBER}")
_LARGEST = (1 << 63) - 1


class Position(NamedTuple):
    """A snapshot taken apart, and a line it saw."""

    oldest: str
    """Every transaction before this one was over."""
    next: str
    """None from this one on had begun."""
    open: list[str]
    """Those between that were not over."""
    line_xid: str
    """The transaction of the newest line, and its time in microseconds: a database that was
    restored and went on has another one there, or none. "0" if the log was empty."""
    line_at: str


def write(epoch: str, content: str) -> str:
    """The position that stands for `content`, ``snapshot/xid.time`` as the server says it."""
    return f"{epoch}/{content}/{_seal(epoch, content)}"


def parse(position: str, epoch: str) -> Position | None:
    """Take apart what `write` made in this epoch; anything else is none."""
    found, _, rest = position.partition("/")
    content, _, seal = rest.rpartition("/")
    if found != epoch or seal != _seal(epoch, content):
        return None
    match = _FORM.fullmatch(content)
    if match is None or any(int(n) > _LARGEST for n in re.findall("[0-9]+", content)):
        return None
    groups = match.groups()
    oldest, following, between, line_xid, line_at = (*groups[:3], *groups[-2:])
    return Position(oldest, following, between.split(",") if between else [], line_xid, line_at)


def _seal(epoch: str, content: str) -> str:
    text = f"{epoch}/{content}".encode("utf-8", "surrogatepass")
    return blake2b(text, digest_size=6).hexdigest()
