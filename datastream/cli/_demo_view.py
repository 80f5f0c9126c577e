"""What the demo's client shows: a live table on a terminal, a line a day on a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Protocol

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from datastream import Entry
from datastream.cli._output import emit

MAJORS = ("USD", "JPY", "GBP", "CHF", "CNY")
BLOCKS = "▁▂▃▄▅▆▇█"
SPARK_DAYS = 14
PANEL_WIDTH, GAP = 37, 2
"""Characters one column of currencies takes, and those to the next."""
FRAME_LINES = 7
"""Lines of a terminal that are not rates: intro, title, foot and the shell's prompt."""


class View(Protocol):
    """Shows one day."""

    def __call__(self, date: str, entries: Sequence[Entry], latency: float, /) -> None: ...


@contextlib.contextmanager
def view() -> Iterator[View]:
    """The view for this stdout."""
    if not sys.stdout.isatty():
        yield _print_day
        return
    table = RatesTable()
    with Live(table, auto_refresh=False) as live:

        def show(date: str, entries: Sequence[Entry], latency: float) -> None:
            table.take(date, entries, latency)
            live.refresh()

        yield show


def _print_day(date: str, entries: Sequence[Entry], latency: float) -> None:
    rates = _rates(entries)
    majors = [f"{name} {rates[name]:g}" for name in MAJORS if name in rates]
    emit("\t".join([date, f"{len(rates)} updates", f"{latency * 1000:.1f} ms", *majors]))


def _rates(entries: Sequence[Entry]) -> dict[str, float]:
    prefix = "fx/"
    return {e.key.removeprefix(prefix): e.decode() for e in entries if e.key.startswith(prefix)}


class RatesTable:
    """Every currency with its rate, its last change and its last days."""

    def __init__(self) -> None:
        self._rates: dict[str, deque[float]] = {}
        self._title = self._foot = ""

    def take(self, date: str, entries: Sequence[Entry], latency: float) -> None:
        """Add one day."""
        news = _rates(entries)
        for name, rate in news.items():
            self._rates.setdefault(name, deque(maxlen=SPARK_DAYS)).append(rate)
        for name in self._rates.keys() - news.keys():
            # Nothing was sent because nothing changed.
            self._rates[name].append(self._rates[name][-1])
        self._title = f"1 euro on {date}"
        self._foot = f"{len(news)} updates, {latency * 1000:.1f} ms after put_many was called"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        names = sorted(self._rates, key=lambda name: (name not in MAJORS, name))
        columns = max(1, (options.max_width + GAP) // (PANEL_WIDTH + GAP))
        lines = max(1, min(-(-len(names) // columns), console.height - FRAME_LINES))
        shown = names[: lines * columns]
        grid = Table.grid(padding=(0, GAP))
        grid.add_row(*(self._panel(part) for part in _split(shown, lines)))
        hidden = f"; {len(names) - len(shown)} more currencies" if names != shown else ""
        yield Text(self._title, "bold")
        yield grid
        yield Text(self._foot + hidden, "dim")

    def _panel(self, names: Sequence[str]) -> Table:
        panel = Table.grid(padding=(0, 1))
        panel.add_column(width=3)
        panel.add_column(width=9, justify="right")
        panel.add_column(width=8, justify="right")
        panel.add_column(width=SPARK_DAYS)
        for name in names:
            days = self._rates[name]
            panel.add_row(Text(name, "cyan"), f"{days[-1]:,}", _change(days), sparkline(days))
        return panel


def _split(names: Sequence[str], size: int) -> list[Sequence[str]]:
    return [names[start : start + size] for start in range(0, len(names), size)]


def _change(days: Sequence[float]) -> Text:
    before = days[-2] if len(days) > 1 else days[-1]
    percent = (days[-1] / before - 1) * 100
    if not percent:
        return Text("=", "dim")
    arrow, style = ("▲", "green") if percent > 0 else ("▼", "red")
    return Text(f"{arrow} {abs(percent):.2f}%", style)


def sparkline(values: Sequence[float]) -> str:
    """Each value as a block, the lowest the smallest."""
    low, high = min(values), max(values)
    step = (high - low) / (len(BLOCKS) - 1)
    return "".join(BLOCKS[round((value - low) / step) if step else 0] for value in values)
