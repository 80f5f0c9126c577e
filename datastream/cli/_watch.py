"""``watch``: follow a store until Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    held then, but every change since; of stores that keep their past, as git does.
    """
    show = change_printer(json_lines=json_lines)
    with open_existing(url, watched=True) as store, store.status.subscribe(say_status):
        if since is None:
            asyncio.run(_follow(store, keys, match, show))
        elif Feature.REPLAY not in store.features:
            raise Unsupported(f"{store.name} cannot be watched --since: {NO_PAST}")
        else:
            _replay(store.replay(*keys, match=match, since=since), show)


class _CtrlC:
    """What Ctrl-C does while an event loop runs.

    Raised within the loop's own code, the exception could leave it waiting for ever. Asyncio's own
    answer, to cancel the task, waits until the loop runs again: never, if the reader of what we
    print has stopped reading. So it is raised while something is printed, else the task is
    cancelled.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._was_pressed = self._prints = False

    @contextmanager
    def printing(self) -> Iterator[None]:
        """Around a `write` that may wait for a reader."""
        self._prints = True
        try:
            yield
        finally:
            self._prints = False
        if self._was_pressed:
            # Where the interpreter ignores exceptions, it would be forgotten.
            raise KeyboardInterrupt

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Around all that the task does."""
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # As in what a shell runs in the background.
            yield
            return
        before = signal.signal(signal.SIGINT, self._press)
        try:
            yield
        except asyncio.CancelledError:
            if self._was_pressed:
                raise KeyboardInterrupt from None
            raise
        finally:
            signal.signal(signal.SIGINT, before)

    def _press(self, signum: int, frame: FrameType | None) -> None:
        self._was_pressed = True
        if self._prints:
            raise KeyboardInterrupt
        if self._task is not None:
            self._loop.call_soon_threadsafe(self._task.cancel)


async def _follow(
    store: Store, keys: tuple[str, ...], match: tuple[str, ...], show: Callable[[Entry], None]
) -> None:
    ctrl_c = _CtrlC()
    with ctrl_c.handled():
        async with store.awatch(*keys, match=match) as entries:
            async for entry in entries:
                with ctrl_c.printing():
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
