"""What is measured: a figure of ours beside its floor, and how the two take turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median, quantiles
from typing import NamedTuple


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the table."""

    name: str
    unit: str
    ours: float
    floor: float | None = None
    ratio: float | None = None
    """Ours to the floor; the median over the rounds, so not always the ratio of the medians."""
    wanted: str
    ok: bool
    note: str = ""


class Effort(NamedTuple):
    """How thoroughly to measure."""

    rounds: int
    """How often ours and the floor take turns."""
    share: float = 1.0
    """Of the work done in each round."""

    def of(self, number: int) -> int:
        return max(1, round(number * self.share))


THOROUGH, QUICK = Effort(15), Effort(3, 0.3)


class Rounds(NamedTuple):
    """What came of taking turns, in the order measured."""

    ours: Sequence[float]
    floor: Sequence[float]

    def figure(self, name: str, unit: str, wanted: str, ok: Callable[[float], bool]) -> Figure:
        """The medians; `ok` judges the ratio.

        The ratio is taken round by round: what else the machine does slows both halves of one.
        """
        ratio = median(a / b for a, b in zip(self.ours, self.floor, strict=True))
        return Figure(
            name=name,
            unit=unit,
            ours=median(self.ours),
            floor=median(self.floor),
            ratio=ratio,
            wanted=wanted,
            ok=ok(ratio),
        )


def take_turns(
    effort: Effort, ours: Callable[[], float], floor: Callable[[], float], *, warm_up: bool = True
) -> Rounds:
    """Measure both `effort.rounds` times, who goes first alternating."""
    if warm_up:
        ours(), floor()
    results: dict[Callable[[], float], list[float]] = {ours: [], floor: []}
    for number in range(effort.rounds):
        for measure in (ours, floor) if number % 2 else (floor, ours):
            results[measure].append(measure())
    return Rounds(results[ours], results[floor])


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that `percent` of 100 do not exceed."""
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def noted(figure: Figure, note: str) -> Figure:
    return replace(figure, note=note)
