"""The demo's data: four months of the European Central Bank's euro reference rates."""

from __future__ import annotations

import csv
from importlib import resources
from typing import NamedTuple

SOURCE = "European Central Bank, https://www.ecb.europa.eu/stats/eurofxref/"


class Day(NamedTuple):
    """What was published on one day."""

    date: str
    rates: dict[str, float]
    """Units of each currency for one euro."""


def load_rates() -> list[Day]:
    """Every day there is, oldest first."""
    text = resources.files("datastream.cli").joinpath("ecb_rates.csv").read_text("utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return [Day(row.pop("Date"), {name: float(rate) for name, rate in row.items()}) for row in rows]
