"""``watch`` on a terminal: a table that changes in place."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from datastream import Batch, State, Status, Store
from datastream.cli import _screen
from datastream.cli._output import one_line
from datastream.cli._rows import Row, Rows
from datastream.cli._screen import KEYS, Window
from datastream.cli._select import Keys
from datastream.cli._terminal import VALUE_WIDTH, shown_time
from datastream.cli._words import in_our_words

_STATES = {State.READY: "green", State.CONNECTING: "yellow", State.STALE: "bold yellow"}
CHANGED, GONE = "●", "✗"
"""Beside a row that changed just now: colours may be switched off."""
COLUMNS = {"": 0, "key": 0, "type": 50, "updated": 80, "value": 0}
"""And how wide a terminal has to be for each."""
GAP, TYPE_WIDTH, TIME_WIDTH = 2, 16, 19
"""Cells between two columns, and of one."""


def show_table(store: Store, selected: Keys, *, initial: bool) -> None:
    """Show the selected keys until q is pressed or Ctrl-C.

    Args:
        initial: also those that do not change.
    """
    table = _LiveTable(store)
    batches = selected.watched(store, initial=initial, conflate="always", every=_screen.PACE)
    with batches.subscribe(table.take):
        _screen.show(table)


class _LiveTable:
    """A `Picture`. The store's thread puts batches in, the main thread draws."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._rows = Rows()
        self._is_new = True
        self._status: Status | None = None

    def take(self, batch: Batch) -> None:
        with self._lock:
            self._rows.take(batch, time.monotonic())
            self._is_new = True

    def is_due(self) -> bool:
        status = self._store.status.current
        with self._lock:
            expired = self._rows.expire(time.monotonic())
            due = self._is_new or expired or status != self._status
            self._is_new = False
        self._status = status
        return due

    def total(self) -> int:
        return len(self._rows)

    def draw(self, window: Window) -> RenderableType:
        with self._lock:
            page = [
                (key, row, self._rows.is_fresh(key))
                for key, row in self._rows.page(window.first, window.size)
            ]
        table = _table(page, window.width)
        space = [Text("")] * (window.size - len(page))
        return Group(table, *space, _foot(self._store, len(page), len(self._rows), window))


def _table(page: Sequence[tuple[str, Row, bool]], width: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    # A narrow terminal shows what matters most.
    names = [name for name in COLUMNS if width >= COLUMNS[name]]
    rows = [_cells(key, row, is_fresh=is_fresh) for key, row, is_fresh in page]
    most = {"type": TYPE_WIDTH, "key": _key_width(rows, names, width)}
    for name in names:
        ratio = 1 if name == "value" else None
        table.add_column(name, no_wrap=True, ratio=ratio, max_width=most.get(name))
    for cells in rows:
        table.add_row(*(cells[name] for name in names))
    return table


def _key_width(rows: Iterable[Mapping[str, Text]], names: Sequence[str], width: int) -> int:
    """What a long key may take: it leaves the value some room, or half of what there is."""
    beside = {"": 1, "updated": TIME_WIDTH}
    types = [min(TYPE_WIDTH, cells["type"].cell_len) for cells in rows]
    beside["type"] = max(len("type"), *types, 0)
    room = width - GAP - sum(beside[name] + GAP for name in names if name in beside)
    return max(1, room // 2, room - VALUE_WIDTH)


def _cells(key: str, row: Row, *, is_fresh: bool) -> dict[str, Text]:
    mark = (GONE if row.is_gone else CHANGED) if is_fresh else " "
    style = ("red strike" if row.is_gone else "bold green") if is_fresh else ""
    return {
        "": Text(mark, style.removesuffix(" strike")),
        "key": Text(one_line(key), style or "cyan"),
        "type": Text(row.value_type, "dim"),
        "updated": Text(shown_time(row.updated_at), "dim"),
        "value": Text(row.value, style),
    }


def _foot(store: Store, shown: int, total: int, window: Window) -> Text:
    """The status line."""
    last = window.first + shown
    return Text.assemble(
        (f"{window.first + 1 if shown else 0}-{last} of {total} keys  ", "bold"),
        state_text(store.status.current),
        (f"  {KEYS}", "dim"),
        no_wrap=True,
        overflow="ellipsis",
    )


def state_text(status: Status) -> Text:
    """How a store stands, and why."""
    why = status.error or status.degraded
    reason = f": {one_line(in_our_words(str(why)))}" if why else ""
    return Text(f"{status.state}{reason}", _STATES.get(status.state, "bold red"))
