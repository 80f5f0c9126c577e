"""``watch``: follow a store until Ctrl-C."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from queue import Queue

import click
from reactivex import Observable

from datastream import Batch, Entry, State, Status, Store
from datastream.cli._exit import say
from datastream.cli._open import open_existing
from datastream.cli._output import change_printer, json_option


@click.command()
@click.argument("url")
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@click.option("--match", multiple=True, metavar="GLOB", help="* within a segment, ** across.")
@click.option(
    "--since", metavar="REV", help="First what happened after REV: a tag, a commit, a time."
)
@json_option
def watch(
    url: str, keys: tuple[str, ...], match: tuple[str, ...], since: str | None, json_lines: bool
) -> None:
    """Print what the keys hold now, then every change, until Ctrl-C.

    A KEY ending in "/" stands for all below it; without KEY and --match everything is watched.
    On a pipe: operation, key, type, value and time, separated by tabs. With --since not what they
    held then, but every change since; of stores that keep their past (git).
    """
    show = change_printer(json_lines=json_lines)
    with open_existing(url, watched=True) as store, store.status.subscribe(_report):
        if since is None:
            asyncio.run(_follow(store, keys, match, show))
        else:
            _replay(store.replay(*keys, match=match, since=since), show)


async def _follow(
    store: Store, keys: tuple[str, ...], match: tuple[str, ...], show: Callable[[Entry], None]
) -> None:
    async with store.awatch(*keys, match=match) as entries:
        async for entry in entries:
            show(entry)


def _replay(batches: Observable[Batch], show: Callable[[Entry], None]) -> None:
    """Show changes until the store ends, or what goes wrong is raised."""
    ended: Queue[Exception | None] = Queue()

    def take(batch: Batch) -> None:
        try:
            for entry in () if batch.initial else batch.entries:
                show(entry)
        except OSError as error:
            # Nobody reads what we print any more.
            ended.put(error)

    with batches.subscribe(take, ended.put, lambda: ended.put(None)):
        error = ended.get()
    if error is not None:
        raise error


def _report(status: Status) -> None:
    if status.state is not State.READY:
        say(f"{status.state}: {status.error}")
    elif status.note:
        say(status.note)
