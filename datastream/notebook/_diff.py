"""How two stores differ, side by side, as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from typing import Protocol

from datastream.entry import Entry
from datastream.notebook import _parts as parts
from datastream.notebook._timeline import COLOURS, lines_of

LINES = 20
"""Lines of a value that are shown."""
COMPARED = 2_000
"""Lines of a value that are compared; what follows is taken for equal."""

Line = tuple[bool, str]
"""Whether it differs, and its text."""


class Difference(Protocol):
    """One key at which two stores differ; None is what does not hold it."""

    @property
    def key(self) -> str: ...
    @property
    def a(self) -> Entry | None: ...
    @property
    def b(self) -> Entry | None: ...


def differences_table(
    differences: Sequence[Difference], *, names: tuple[str, str] = ("a", "b"), more: bool = False
) -> str:
    """What each store holds where they differ, those lines marked that do.

    Args:
        names: of the two stores.
        more: there are others, which are not shown.
    """
    if not differences:
        return parts.box(parts.title("no difference", parts.dim(parts.text(" and ".join(names)))))
    table = parts.table(map(_row, differences), ("key", *names))
    rest = f"<div>{parts.dim('… and more')}</div>" if more else ""
    return parts.box(table, rest)


def no_difference_known(names: tuple[str, str], error: Exception) -> str:
    """Why two stores cannot be compared."""
    return parts.box(parts.title(" and ".join(names), parts.dim("unknown")), parts.problem(error))


def side_by_side(a: Entry | None, b: Entry | None) -> tuple[list[Line], list[Line]]:
    """The lines around those that differ, of each."""
    one, other = (lines_of(entry)[:COMPARED] if entry else [] for entry in (a, b))
    if one == other and a is not None and b is not None:
        # The types differ, or what is hidden.
        one, other = ([f"{a.value_type}, {line}" for line in one], [*other])
        other = [f"{b.value_type}, {line}" for line in other]
    left, right = _marked(one, other), _marked(other, one)
    return _around(left), _around(right)


def _marked(lines: list[str], others: list[str]) -> list[Line]:
    """Each line, and whether it is missing among the others."""
    matcher = SequenceMatcher(None, lines, others, autojunk=False)
    same = {at + n for at, _, size in matcher.get_matching_blocks() for n in range(size)}
    return [(number not in same, line) for number, line in enumerate(lines)]


def _around(lines: list[Line]) -> list[Line]:
    """So many lines from a little before the first one that differs."""
    first = next((number for number, (differs, _) in enumerate(lines) if differs), 0)
    begin = max(0, min(first - 2, len(lines) - LINES))
    return lines[begin : begin + LINES]


def _row(difference: Difference) -> str:
    a, b = difference.a, difference.b
    left, right = side_by_side(a, b)
    cells = (_cell(a, left, COLOURS["-"]), _cell(b, right, COLOURS["+"]))
    return parts.cell(parts.EXACT, parts.text(difference.key)) + "".join(cells)


def _cell(entry: Entry | None, lines: Iterable[Line], colour: str) -> str:
    if entry is None:
        return parts.cell(parts.WIDE, parts.dim("none"))
    divs = (
        f'<div style="background:{colour if differs else "none"}">{parts.text(line)}</div>'
        for differs, line in lines
    )
    return parts.cell(parts.EXACT, "".join(divs) or parts.dim("empty"))
