"""``watch``: follow a store until Ctrl-C."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import click

from datastream import Entry, State, Status, Store
from datastream.cli._exit import say
from datastream.cli._open import open_existing
from datastream.cli._output import change_printer, json_option


@click.command()
@click.argument("url")
@click.argument("keys", nargs=-1, metavar="[KEY]...")
@click.option("--match", multiple=True, metavar="GLOB", help="* within a segment, ** across.")
@json_option
def watch(url: str, keys: tuple[str, ...], match: tuple[str, ...], json_lines: bool) -> None:
    """Print what the keys hold now, then every change, until Ctrl-C.

    A KEY ending in "/" stands for all below it; without KEY and --match everything is watched.
    On a pipe: operation, key, type, value and time, separated by tabs.
    """
    show = change_printer(json_lines=json_lines)
    with open_existing(url, watched=True) as store, store.status.subscribe(_report):
        asyncio.run(_follow(store, keys, match, show))


async def _follow(
    store: Store, keys: tuple[str, ...], match: tuple[str, ...], show: Callable[[Entry], None]
) -> None:
    async with store.awatch(*keys, match=match) as entries:
        async for entry in entries:
            show(entry)


def _report(status: Status) -> None:
    if status.state is not State.READY:
        say(f"{status.state}: {status.error}")
    elif status.note:
        say(status.note)
