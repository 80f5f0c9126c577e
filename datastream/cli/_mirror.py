"""``mirror``: one store kept like another."""

from __future__ import annotations

import time
from typing import Any

import click

import datastream
from datastream import DatastreamError, Mirror, Operation, State, Status, Store
from datastream.cli._exit import say
from datastream.cli._open import open_existing, open_store
from datastream.cli._output import as_json, emit, json_option, one_line
from datastream.cli._prefixes import in_words_of_first, prefix_options, selected, taken
from datastream.cli._progress import progress
from datastream.cli._select import keys_argument, selection, url_argument
from datastream.cli._status import say_status
from datastream.cli._words import of_one_of_many
from datastream.errors import shown

LOOK = 0.5
"""Seconds between two looks at what was done."""


@click.command()
@url_argument
@click.argument("target")
@keys_argument
@selection
@click.option("--once", is_flag=True, help="End when TARGET is like URL.")
@click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
@click.option("--no-delete", is_flag=True, help="Leave what URL does not hold.")
@click.option(
    "--on-conflict",
    type=click.Choice(("source", "target")),
    help="Who wins where others wrote to TARGET; without it, that is an error.",
)
@click.option(
    "--delete-limit",
    type=click.FloatRange(min=0, max=1),
    default=0.5,
    show_default=True,
    help="Largest share of TARGET to delete at once; only 1 lets an empty URL empty it.",
)
@prefix_options
@click.option("--place", metavar="FILE", help="Keep how far it is there, not in TARGET.")
@json_option
def mirror(url: str, target: str, *, once: bool, json_lines: bool, **options: Any) -> None:
    """Keep the store TARGET like the store URL, deletes included, until Ctrl-C.

    It goes on where it was after a restart of either store or of itself, and retries for ever;
    with --once it ends when TARGET is like URL, or with exit code 1 where you have to decide.

    With --from-prefix A and --to-prefix B, B/x in TARGET stands for A/x in URL, whose keys are the
    ones that are told.

    Prints what it has done so far, whenever it has done more. A dry run prints operation, key and
    type, separated by tabs.
    """
    dry_run = options["dry_run"]
    once = once or dry_run
    prefixes = taken(options)
    options["keys"] = selected(options["keys"], options["match"], prefixes)
    with (
        open_existing(url, watched=not once) as source,
        open_store(target, watched=not once, create=not dry_run) as there,
        in_words_of_first(there, prefixes) as store,
        _started(source, store, **options) as running,
        running.status.subscribe(_say_stale if once else say_status),
    ):
        if not once:
            _follow(running, json_lines=json_lines)
            return
        with progress("mirroring"):
            running.ready()
        if dry_run:
            _print_plan(running, json_lines=json_lines)
        else:
            emit(_counts(running, json_lines=json_lines))
        _check(running)


def _started(source: Store, store: Store, **options: Any) -> Mirror:
    keys = options.pop("keys")
    delete = not options.pop("no_delete")
    return datastream.mirror(source, store, *keys, delete=delete, **options)


def _say_stale(status: Status) -> None:
    """What else goes wrong ends the command, with an error of its own."""
    if status.state is State.STALE:
        say_status(status)


def _follow(running: Mirror, *, json_lines: bool) -> None:
    shown = None
    while True:
        if running.counts != shown:
            shown = running.counts
            emit(_counts(running, json_lines=json_lines))
        time.sleep(LOOK)


def _counts(running: Mirror, *, json_lines: bool) -> str:
    counts = running.counts
    if json_lines:
        return as_json(counts._asdict() | {"lag": running.lag})
    return f"{counts.puts} keys written, {counts.deletes} removed, {counts.conflicts} left"


def _print_plan(running: Mirror, *, json_lines: bool) -> None:
    for write in running.planned:
        operation = str(Operation.DELETE if write.value is None else Operation.PUT)
        if json_lines:
            emit(as_json({"operation": operation, "key": write.key, "type": write.value_type}))
        else:
            emit(f"{operation}\t{one_line(write.key)}\t{one_line(write.value_type)}")


def _check(running: Mirror) -> None:
    for key, reason in running.refused.items():
        say(f"{shown(key)}: {of_one_of_many(reason)}")
    if running.refused:
        raise DatastreamError(f"{len(running.refused)} keys cannot be held, as said above")
