"""The figures as a table on the terminal, as Markdown or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.bench.figures import Figure


def print_table(figures: Sequence[Figure], console: Console) -> None:
    """One line a figure, and what is to be said of them below."""
    table = Table(title="datastream beside the floor of the same run")
    for column in ("figure", "ours", "floor", "ratio", "wanted", "ok?"):
        numeric = column in ("ours", "floor", "ratio")
        table.add_column(column, justify="right" if numeric else "left", no_wrap=numeric)
    for figure in figures:
        table.add_row(
            escape(figure.name),
            _quantity(figure.ours, figure.unit),
            _quantity(figure.floor, figure.unit),
            _ratio(figure.ratio),
            escape(figure.wanted),
            "[green]yes[/]" if figure.ok else "[bold red]no[/]",
        )
    console.print(table)
    for figure in figures:
        if figure.note:
            console.print(f"[dim]{escape(figure.name)}: {escape(figure.note)}[/]", highlight=False)


def as_markdown(figures: Sequence[Figure]) -> str:
    """The table of ``docs/performance.md``; figures that miss what is wanted are bold."""
    lines = ["| figure | ours | floor | ratio | wanted |", "|---|---|---|---|---|"]
    for figure in figures:
        ours, floor = _quantity(figure.ours, figure.unit), _quantity(figure.floor, figure.unit)
        ratio = _ratio(figure.ratio)
        cells = [figure.name, ours, floor or "–", ratio or "–", figure.wanted]
        if not figure.ok:
            missed = 3 if ratio else 1
            cells[missed] = f"**{cells[missed]}**"
        cells[0] = cells[0].replace("*", r"\*")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def as_json(figures: Sequence[Figure]) -> str:
    """A list of objects with the fields of `Figure`."""
    return json.dumps([asdict(figure) for figure in figures], indent=2)


def _ratio(value: float | None) -> str:
    """Small ones as a fraction, as they are wanted."""
    if value is None:
        return ""
    return f"{value:.2f}" if value >= 0.2 else f"1/{1 / value:.1f}"


def _quantity(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    digits = 0 if value >= 1000 else 1 if value >= 100 else 2
    return f"{value:,.{digits}f} {unit}"
