"""A whole terminal that is drawn anew as things change, with keys to page through it."""

from __future__ import annotations

import importlib.util
import os
import re
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, Protocol

from rich.console import Console, RenderableType
from rich.live import Live

PACE = 0.1
"""Seconds between two pictures at least."""
KEYS = "q quits, ↑ ↓ PgUp PgDn Home End page"

_SEQUENCE = re.compile(r"\x1b[\[O][0-9;]*[A-Za-z~]|.", re.DOTALL)
_Move = Callable[[int, int], int]
"""From the first row seen, and how many are, to the first row then."""
_MOVES: dict[str, _Move] = {
    "\x1b[A": lambda first, size: first - 1,
    "k": lambda first, size: first - 1,
    "\x1b[B": lambda first, size: first + 1,
    "j": lambda first, size: first + 1,
    "\x1b[5~": lambda first, size: first - size,
    "b": lambda first, size: first - size,
    "\x1b[6~": lambda first, size: first + size,
    " ": lambda first, size: first + size,
    "\x1b[H": lambda first, size: 0,
    "\x1b[1~": lambda first, size: 0,
    "g": lambda first, size: 0,
    "\x1b[F": lambda first, size: sys.maxsize,
    "\x1b[4~": lambda first, size: sys.maxsize,
    "G": lambda first, size: sys.maxsize,
}


class Window(NamedTuple):
    """The part of a long table that is seen."""

    first: int
    size: int
    """Rows that there is room for."""
    width: int = 0
    """Columns of the terminal."""

    def moved(self, key: str, total: int) -> Window:
        """After `key` was pressed, within `total` rows."""
        move = _MOVES.get(key)
        first = move(self.first, self.size) if move else self.first
        first = min(first, total - self.size)
        return self._replace(first=max(0, first))


class Picture(Protocol):
    """What is on the screen."""

    def is_due(self) -> bool:
        """Whether it is another one than was drawn last."""
        ...

    def total(self) -> int:
        """How many rows it has."""
        ...

    def draw(self, window: Window) -> RenderableType:
        """Those rows, with a line above and one below."""
        ...


def show(picture: Picture) -> None:
    """Show `picture` until q is pressed; Ctrl-C is raised."""
    console = Console()
    window = Window(0, 0)
    size = None
    with (
        _pressed_keys() as pressed,
        Live(console=console, screen=True, auto_refresh=False) as live,
        _unwrapped(console),
    ):
        while True:
            keys = pressed()
            if "q" in keys:
                return
            # Asked each time, since a terminal may be resized.
            now = console.size
            window = window._replace(size=max(1, now.height - 2), width=now.width)
            for key in keys or [""]:
                window = window.moved(key, picture.total())
            if picture.is_due() or keys or now != size:
                live.update(picture.draw(window), refresh=True)
            size = now


@contextmanager
def _unwrapped(console: Console) -> Iterator[None]:
    """Have a line that is too long cut, not wrapped, by the terminal itself.

    Terminals differ in how wide they draw an emoji of several parts: one that draws it wider than
    was counted would push the first line off the screen.
    """
    if not console.is_terminal or console.legacy_windows:
        yield
        return
    console.file.write("\x1b[?7l")
    try:
        yield
    finally:
        console.file.write("\x1b[?7h")


@contextmanager
def _pressed_keys() -> Iterator[Callable[[], list[str]]]:
    """What waits a moment, and returns the keys that were pressed meanwhile."""
    # Elsewhere, as on Windows, there is no such way to read keys.
    if not sys.stdin.isatty() or importlib.util.find_spec("termios") is None:
        yield _wait
        return
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    try:
        yield partial(_pressed, terminal)
    finally:
        # At once: a terminal that is stopped would have it wait.
        termios.tcsetattr(terminal, termios.TCSANOW, before)


def _pressed(terminal: int) -> list[str]:
    _wait()
    if not select.select([terminal], [], [], 0)[0]:
        return []
    return _SEQUENCE.findall(os.read(terminal, 1024).decode(errors="ignore"))


def _wait() -> list[str]:
    time.sleep(PACE)
    return []
