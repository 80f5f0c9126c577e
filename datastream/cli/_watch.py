"""``watch``: follow a store until Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import NamedTuple

import click
from reactivex import Observable
from reactivex import operators as ops

from datastream import Batch, DatastreamError, Entry, Feature, Store, Unsupported
from datastream.cli._arrivals import arriving
from datastream.cli._exec import runner
from datastream.cli._open import open_existing
from datastream.cli._output import (
    as_json,
    change_printer,
    emit,
    is_screen,
    json_option,
    one_line,
)
from datastream.cli._select import Keys, keys_argument, selection, url_argument
from datastream.cli._status import say_status
from datastream.cli._webhook import poster
from datastream.errors import shown
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
    cursors: bool

    def is_table(self) -> bool:
        sinks = (self.lines, self.json_lines, self.command, self.webhook, self.cursors)
        return not any((*sinks, self.most, self.since)) and is_screen()

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
    "--since",
    metavar="REV",
    help="First what happened after REV: a tag, a commit, a time; or a cursor of --cursors.",
)
@click.option("--cursors", is_flag=True, help="After what belongs together, a line for --since.")
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
    cursors: bool,
) -> None:
    """Show what the keys hold now, then every change, until Ctrl-C.

    A KEY ending in "/" stands for all below it; without KEY and --match everything is watched.

    On a terminal it is a table that changes in place. On a pipe: operation, key, type, value and
    time, separated by tabs.

    With --since not what they held then, but every change since, of stores that keep their past,
    as git does. Of stores with a change log, the newest state of each key that has changed since a
    cursor. --cursors prints them: CURSOR, a tab, and what --since takes.

    CMD has the value as its standard input, and DATASTREAM_KEY, _OPERATION, _TYPE, _REVISION and
    _UPDATED_AT in its environment.
    """
    if command and webhook:
        raise click.UsageError("give either --exec or --webhook")
    if cursors and (command or webhook):
        raise click.UsageError("--cursors prints lines; leave --exec and --webhook out")
    how = _How(not no_initial, since, count, command, webhook, json_lines, lines, cursors)
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
        # Without its entries, the first batch has a cursor all the same.
        return selected.watched(store, initial=how.initial or how.cursors)
    if Feature.REPLAY in store.features:
        match, exclude = selected.match, selected.exclude
        past = store.replay(*selected.keys, match=match, exclude=exclude, since=how.since)
        return past.pipe(ops.filter(_is_change))
    if Feature.LOG not in store.features:
        raise Unsupported(f"{store.name} cannot be watched --since: {NO_PAST}")
    changes = selected.watched(store, since=how.since)
    return changes.pipe(ops.do_action(partial(_check_since, store.name, how.since)))


def _is_change(batch: Batch) -> bool:
    # The first batch of a replay is how things stood at its beginning.
    return not batch.initial


def _check_since(name: str, since: str, batch: Batch) -> None:
    if batch.reset:
        # What has been removed since is not known: the reader has to begin anew, knowingly.
        raise DatastreamError(
            f"{name} cannot go on from {shown(since)}, which is no cursor of it, or too old; "
            f"leave --since out to begin with what it holds; a tag or a time is none: {NO_PAST}"
        )


def _print(batches: Observable[Batch], how: _How) -> None:
    show, left = how.shower(), how.most
    with arriving(batches) as arrived:
        for batch in arrived:
            is_shown = how.initial or how.since is not None or not batch.initial
            entries = batch.entries if is_shown else ()
            for entry in islice(entries, left):
                show(entry)
            if left is not None:
                left -= len(entries)
            # What was printed in part is to come again.
            if how.cursors and (left is None or left >= 0):
                emit(_cursor_line(batch.cursor, json_lines=how.json_lines))
            if left is not None and left <= 0:
                return


def _cursor_line(cursor: str, *, json_lines: bool) -> str:
    return as_json({"cursor": cursor}) if json_lines else f"CURSOR\t{one_line(cursor)}"
