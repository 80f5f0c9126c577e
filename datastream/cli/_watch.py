"""``watch``: follow a store until Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from queue import Queue
from threading import Event
from types import FrameType

import click
from reactivex import Observable

from datastream import Batch, Entry, Store, Unsupported
from datastream.cli._open import open_existing
from datastream.cli._output import change_printer, json_option
from datastream.cli._status import say_status
from datastream.source import NO_PAST, Feature

AHEAD = 16
"""Batches that a replay is read ahead of what is printed."""


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
    with open_existing(url, watched=True) as store, store.status.subscribe(say_status):
        if since is None:
            _end_at_ctrl_c()
            asyncio.run(_follow(store, keys, match, show))
        elif Feature.REPLAY not in store.features:
            raise Unsupported(f"{store.name} cannot be watched --since: {NO_PAST}")
        else:
            _replay(store.replay(*keys, match=match, since=since), show)


def _end_at_ctrl_c() -> None:
    """Keep asyncio from taking Ctrl-C over.

    It would only cancel a task, when the loop runs again; that may be never, if the reader of
    what we print has stopped reading.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    global _interrupted  # noqa: PLW0603
    _interrupted = True
    raise KeyboardInterrupt


_interrupted = False
"""Ctrl-C was pressed. Where the interpreter ignores exceptions, it would be forgotten."""


async def _follow(
    store: Store, keys: tuple[str, ...], match: tuple[str, ...], show: Callable[[Entry], None]
) -> None:
    async with store.awatch(*keys, match=match) as entries:
        async for entry in entries:
            if _interrupted:
                raise KeyboardInterrupt
            show(entry)


def _replay(batches: Observable[Batch], show: Callable[[Entry], None]) -> None:
    """Show changes until the store ends, or what goes wrong is raised.

    They are printed on the main thread: that is the one which Ctrl-C ends, even in a `write` that
    waits for a reader. The subscription waits for it in turn.
    """
    arrived: Queue[Batch | Exception | None] = Queue(AHEAD)
    left = Event()

    def take(item: Batch | Exception | None = None) -> None:
        if not left.is_set():
            arrived.put(item)

    with batches.subscribe(take, take, take):
        try:
            while isinstance(item := arrived.get(), Batch):
                for entry in () if item.initial else item.entries:
                    show(entry)
        finally:
            left.set()
            while not arrived.empty():
                arrived.get_nowait()
    if item is not None:
        raise item
