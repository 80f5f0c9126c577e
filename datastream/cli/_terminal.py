"""Entries on a terminal. Only files about terminals load rich."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import click
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TimeElapsedColumn
from rich.text import Text

from datastream import Entry, Operation
from datastream.cli._output import emit, has_colour, more, one_line, shown_start, shown_value

VALUE_WIDTH = 20
"""Cells that a value should have at least."""
_STYLES = {Operation.PUT: "green", Operation.DELETE: "red"}


def print_table(entries: Iterable[Entry], *, is_long: bool = False) -> None:
    """A table of what a store holds.

    Args:
        is_long: with size and revision.
    """
    # Not by rich: it would take ten seconds for what a store may well hold.
    names = ("key", "type", "updated", *(("size", "revision") if is_long else ()), "value")
    rows = [_cells(entry, is_long=is_long) for entry in entries]
    widths = _widths([names, *rows], Console().width)
    _print_row(names, widths, [{"bold": True}] * len(names))
    for row in rows:
        _print_row(row, widths, [{"fg": "cyan"}, *[{"dim": True}] * (len(names) - 2), {}])
    _print_row([f"{len(rows)} keys"], [], [{"dim": True}])


def _cells(entry: Entry, *, is_long: bool) -> tuple[str, ...]:
    beside = (one_line(entry.value_type), shown_time(entry.updated_at))
    return (one_line(entry.key), *beside, *(more(entry) if is_long else ()), shown_start(entry))


def _widths(rows: Sequence[Sequence[str]], total: int) -> list[int]:
    """Of each column; the value has what the others leave, and the key at most the half."""
    most = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    most[0] = min(most[0], max(total // 2, total - sum(most[1:-1]) - len(most) - VALUE_WIDTH))
    most[-1] = max(0, total - sum(most[:-1]) - len(most) + 1)
    return most


def _print_row(
    cells: Sequence[str], widths: Sequence[int], styles: Sequence[Mapping[str, Any]]
) -> None:
    padded = [_cut(cell, width) for cell, width in zip(cells, widths, strict=False)] or [*cells]
    padded[-1] = padded[-1].rstrip()
    if has_colour():
        padded = [click.style(c, **style) for c, style in zip(padded, styles, strict=True)]
    emit(" ".join(padded))


def _cut(text: str, width: int) -> str:
    """`text` with so many cells, of which a wide character takes two."""
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    return f"{set_cell_size(text, width - 1)}…" if width else ""


def change_printer() -> Callable[[Entry], None]:
    """What prints one change as one line."""
    console = Console(highlight=False)
    return lambda entry: console.print(_change(entry), no_wrap=True, overflow="ellipsis")


@contextmanager
def progress(what: str) -> Iterator[Callable[[str], None]]:
    """Show what the function that this gives is told, until the end."""
    with Console(stderr=True).status(what) as status:
        # Of a text with several lines, the newest is how it stands.
        yield lambda text: status.update(
            Text(f"{what}: {one_line((text.splitlines() or [''])[-1])}")
        )


def _change(entry: Entry) -> Text:
    return Text.assemble(
        (f"{shown_time(entry.updated_at):19}  ", "dim"),
        (f"{entry.operation:6}  ", _STYLES[entry.operation]),
        (one_line(entry.key), "cyan"),
        "" if entry.operation is Operation.DELETE else f" = {shown_value(entry)}",
        (f"  {one_line(entry.value_type)}", "dim"),
    )


def bar(total: int | None) -> Progress:
    """A bar on stderr that goes away when it is stopped."""
    amount = "{task.completed} of {task.total}" if total is not None else "{task.completed}"
    columns = (SpinnerColumn(), "{task.description}", BarColumn(), amount, TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def shown_time(at: datetime | None) -> str:
    """A time as it is here; nothing if it is not known."""
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S}" if at else ""
