"""The figures as a table on the terminal, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
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
            figure.name,
            _quantity(figure.ours, figure.unit),
            _quantity(figure.floor, figure.unit),
            "" if figure.ratio is None else f"{figure.ratio:.3g}",
            figure.wanted,
            "[green]yes[/]" if figure.ok else "[bold red]no[/]",
        )
    console.print(table)
    for figure in figures:
        if figure.note:
            console.print(f"[dim]{figure.name}: {figure.note}[/]", highlight=False)


def as_json(figures: Sequence[Figure]) -> str:
    """A list of objects with the fields of `Figure`."""
    return json.dumps([asdict(figure) for figure in figures], indent=2)


def _quantity(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    digits = 0 if value >= 1000 else 1 if value >= 100 else 2
    return f"{value:,.{digits}f} {unit}"
