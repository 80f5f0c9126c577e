"""Entries on a terminal. Only files about terminals load rich."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from datastream import Entry, Operation
from datastream.cli._output import more, one_line, shown_value

_STYLES = {Operation.PUT: "green", Operation.DELETE: "red"}


def print_table(entries: Iterable[Entry], *, is_long: bool = False) -> None:
    """A table of what a store holds.

    Args:
        is_long: with size and revision.
    """
    # All the width there is, for the last column: the others are never cut in its favour.
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    for name in ("key", "type", "updated", *(("size", "revision") if is_long else ())):
        table.add_column(name, no_wrap=True)
    table.add_column("value", no_wrap=True, ratio=1)
    for entry in entries:
        table.add_row(
            Text(one_line(entry.key), "cyan"),
            Text(one_line(entry.value_type), "dim"),
            Text(shown_time(entry.updated_at), "dim"),
            *(Text(text, "dim") for text in (more(entry) if is_long else ())),
            Text(shown_value(entry)),
        )
    console = Console()
    console.print(table)
    console.print(f"[dim]{table.row_count} keys")


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
