"""``top`` on a terminal."""

from __future__ import annotations

import threading
import time

from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from datastream import Store
from datastream.cli import _screen
from datastream.cli._counts import Counts, Line
from datastream.cli._live import state_text
from datastream.cli._output import one_line
from datastream.cli._screen import KEYS, Window

PACE = 1.0
"""Seconds between two pictures: rows that change places faster cannot be read."""
BAR = 20
"""Characters of the longest bar."""
COLUMNS = {"per second": 0, "changes": 40, "": 60, "key": 0}
"""And how wide a terminal has to be for each."""


def show_counts(store: Store, counts: Counts, lock: threading.Lock) -> None:
    """Show the rates until q is pressed or Ctrl-C."""
    _screen.show(_Top(store, counts, lock))


class _Top:
    """A `Picture`."""

    def __init__(self, store: Store, counts: Counts, lock: threading.Lock) -> None:
        self._store, self._counts, self._lock = store, counts, lock
        self._lines: list[Line] = []
        self._rate = 0.0
        self._due = 0.0

    def is_due(self) -> bool:
        now = time.monotonic()
        if now < self._due:
            return False
        self._due = now + PACE
        with self._lock:
            self._lines = self._counts.lines(now)
            self._rate = self._counts.rate(now)
        return True

    def total(self) -> int:
        return len(self._lines)

    def draw(self, window: Window) -> RenderableType:
        page = self._lines[window.first : window.first + window.size]
        space = [Text("")] * (window.size - len(page))
        return Group(_table(page, self._lines, window.width), *space, self._foot())

    def _foot(self) -> Text:
        return Text.assemble(
            (f"{self._rate:.1f}/s, {len(self._lines)} keys changed  ", "bold"),
            state_text(self._store.status.current),
            (f"  {KEYS}", "dim"),
            no_wrap=True,
            overflow="ellipsis",
        )


def _table(page: list[Line], lines: list[Line], width: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    # A narrow terminal shows what matters most.
    names = [name for name in COLUMNS if width >= COLUMNS[name]]
    for name in names:
        justify: JustifyMethod = "left" if name in ("", "key") else "right"
        table.add_column(name, no_wrap=True, justify=justify, ratio=1 if name == "key" else None)
    most = lines[0].rate if lines else 0.0
    for key, rate, total in page:
        cells: dict[str, RenderableType] = {
            "per second": f"{rate:.1f}",
            "changes": str(total),
            "": Text(("█" * round(BAR * rate / most) if most else "").ljust(BAR), "green"),
            "key": Text(one_line(key), "cyan"),
        }
        table.add_row(*(cells[name] for name in names))
    return table
