"""``watch``: follow a store until Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import click
from reactivex import Observable

from datastream import Batch, Entry, Feature, Store, Unsupported
from datastream.cli._arrivals import arriving
from datastream.cli._exec import runner
from datastream.cli._open import open_existing
from datastream.cli._output import change_printer, is_screen, json_option
from datastream.cli._select import Keys, keys_argument, selection, url_argument
from datastream.cli._status import say_status
from datastream.cli._webhook import poster
from datastream.source import NO_PAST


class _How(NamedTuple):
    """What of a watch is shown, and to whom."""

    initial: bool
    since: str | None
    most: int | None
    command: str | None
    webhook: str | None
    json_lines: bool
    lines: bool

    def is_table(self) -> bool:
        others = (self.lines, self.json_lines, self.most, self.command, self.webhook, self.since)
        return not any(others) and is_screen()

    def shower(self) -> Callable[[Entry], None]:
        if self.command is not None:
            return runner(self.command)
        if self.webhook is not None:
            return poster(self.webhook)
        return change_printer(json_lines=self.json_lines)


@click.command()
@url_argument
@keys_argument
@selection
@click.option("--no-initial", is_flag=True, help="Only changes, not what the keys hold now.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N lines.")
@click.option(
    "--since", metavar="REV", help="First what happened after REV: a tag, a commit, a time."
)
@click.option("--exec", "command", metavar="CMD", help="Run CMD in a shell for each line instead.")
@click.option(
    "--webhook",
    metavar="URL",
    help="POST each line there as JSON instead, signed if DATASTREAM_WEBHOOK_SECRET is set.",
)
@click.option("--lines", is_flag=True, help="Lines on a terminal, too, instead of a live table.")
@json_option
def watch(
    url: str,
    *,
    keys: tuple[str, ...],
    match: tuple[str, ...],
    exclude: tuple[str, ...],
    no_initial: bool,
    count: int | None,
    since: str | None,
    command: str | None,
    webhook: str | None,
    lines: bool,
    json_lines: bool,
) -> None:
    """Show what the keys hold now, then every change, until Ctrl-C.

    A KEY ending in "/" stands for all below it; without KEY and --match everything is watched.

    On a terminal it is a table that changes in place. On a pipe: operation, key, type, value and
    time, separated by tabs. With --since not what they held then, but every change since; of
    stores that keep their past, as git does.

    CMD has the value as its standard input, and DATASTREAM_KEY, _OPERATION, _TYPE, _REVISION and
    _UPDATED_AT in its environment.
    """
    if command and webhook:
        raise click.UsageError("give either --exec or --webhook")
    how = _How(not no_initial, since, count, command, webhook, json_lines, lines)
    selected = Keys(keys, match, exclude)
    with open_existing(url, watched=True) as store:
        if how.is_table():
            from datastream.cli._live import show_table

            show_table(store, selected, initial=how.initial)
        else:
            with store.status.subscribe(say_status):
                _print(_batches(store, selected, how), how)


def _batches(store: Store, selected: Keys, how: _How) -> Observable[Batch]:
    if how.since is None:
        return selected.watched(store, initial=how.initial)
    if Feature.REPLAY not in store.features:
        raise Unsupported(f"{store.name} cannot be watched --since: {NO_PAST}")
    match, exclude = selected.match, selected.exclude
    return store.replay(*selected.keys, match=match, exclude=exclude, since=how.since)


def _print(batches: Observable[Batch], how: _How) -> None:
    show = how.shower()
    with arriving(batches) as arrived:
        for entry in islice(_entries(arrived, how), how.most):
            show(entry)


def _entries(arrived: Iterator[Batch], how: _How) -> Iterator[Entry]:
    for batch in arrived:
        # The first batch of a replay is how things stood at its beginning.
        if how.since is None or not batch.initial:
            yield from batch
