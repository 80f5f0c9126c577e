"""``top``: which keys change most, live."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime

import click

from datastream import Batch
from datastream.cli._counts import Counts
from datastream.cli._open import open_existing
from datastream.cli._output import as_json, emit, is_screen, json_option, one_line
from datastream.cli._select import Keys, keys_argument, selection, url_argument
from datastream.cli._status import say_status


@click.command()
@url_argument
@keys_argument
@selection
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1, max=3600),
    default=1.0,
    show_default=True,
    help="Seconds between two looks, on a pipe.",
)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N looks.")
@json_option
def top(
    url: str,
    *,
    keys: tuple[str, ...],
    match: tuple[str, ...],
    exclude: tuple[str, ...],
    interval: float,
    count: int | None,
    json_lines: bool,
) -> None:
    """Show how often keys change, those first that do most, until Ctrl-C.

    Rates are of the last ten seconds. A backend that is polled shows of several changes between
    two polls the last one, so there they are lower bounds.

    On a pipe, at each look: time, changes a second, changes in all and key, separated by tabs, of
    the keys that changed since the look before.
    """
    counts = Counts(time.monotonic())
    lock = threading.Lock()

    def take(batch: Batch) -> None:
        with lock:
            counts.take(batch, time.monotonic())

    with (
        open_existing(url, watched=True) as store,
        Keys(keys, match, exclude).watched(store).subscribe(take),
    ):
        if is_screen() and not (json_lines or count):
            from datastream.cli._live_top import show_counts

            show_counts(store, counts, lock)
            return
        with store.status.subscribe(say_status):
            _print(counts, lock, interval, count, json_lines=json_lines)


def _print(
    counts: Counts, lock: threading.Lock, interval: float, most: int | None, *, json_lines: bool
) -> None:
    looks = 0
    while most is None or looks < most:
        time.sleep(interval)
        looks += 1
        with lock:
            lines = counts.changed(time.monotonic())
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        for key, rate, total in lines:
            if json_lines:
                emit(as_json({"at": at, "rate": rate, "total": total, "key": key}))
            else:
                emit(f"{at}\t{rate:.1f}\t{total}\t{one_line(key)}")
