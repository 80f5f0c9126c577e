"""Takes the pictures of the docs: ``python docs/build_images.py``.

A command runs in a terminal of its own, as it does for a user, and its screen becomes an SVG.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Self

import pyte
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import MONOKAI
from rich.text import Text

import datastream

IMAGES = Path(__file__).parent / "images"
COLUMNS = 80
# Rich names a font to be fetched from elsewhere; whoever looks at a picture has one.
_FONT_FACE = re.compile(r"@font-face \{.*?\}", re.DOTALL)


def demo() -> None:
    """The demo at its end."""
    with Terminal("demo", lines=40) as terminal:
        terminal.read_to_the_end()
        _save("demo", "datastream demo", terminal.picture())


def watch() -> None:
    """A live table, in which one key has changed and one has gone."""
    with tempfile.TemporaryDirectory() as folder, datastream.open(f"sqlite:{folder}/db") as store:
        store.put_many({"fx/USD": 1.113, "fx/GBP": 0.83578, "fx/JPY": 175.86, "fx/CHF": 0.9247})
        store.put_many({"limits/rps": 20, "flags/new-checkout": True, "motd": "Welcome!"})
        with Terminal("watch", f"sqlite:{folder}/db", lines=11) as terminal:
            terminal.wait_for("Welcome!")
            del store["motd"]
            store.put("fx/USD", 1.1172)
            terminal.wait_for("1.1172")
            picture = terminal.picture()
            terminal.press("q")
            terminal.read_to_the_end()
    for line in picture:
        line.plain = line.plain.replace(f"{folder}/db", "rates.db")
    _save("watch", "datastream watch sqlite:rates.db", picture)


class Terminal:
    """A terminal in which one of our commands runs.

    Args:
        arguments: of ``datastream``.
        lines: its height.
    """

    def __init__(self, *arguments: str, lines: int) -> None:
        self._screen = pyte.Screen(COLUMNS, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, COLUMNS, 0, 0))
        environment = os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "datastream.cli", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
        )
        os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        os.close(self._ours)

    def press(self, key: str) -> None:
        """What a user types."""
        os.write(self._ours, key.encode())

    def wait_for(self, text: str) -> None:
        """Read until the screen shows `text`."""
        while not any(text in line for line in self._screen.display):
            if not self._read():
                raise EOFError(f"the command ended, and never showed {text!r}")

    def read_to_the_end(self) -> None:
        """Read until the command ends."""
        while self._read():
            pass

    def _read(self) -> bool:
        try:
            data = os.read(self._ours, 1 << 16)
        except OSError:
            # Linux says so when the last program at the other end has gone.
            return False
        self._stream.feed(data)
        return bool(data)

    def picture(self) -> list[Text]:
        """What the screen shows."""
        lines = [self._line(number) for number in range(self._screen.lines)]
        while lines and not lines[-1].plain.strip():
            lines.pop()
        return lines

    def _line(self, number: int) -> Text:
        line = Text()
        chars = (self._screen.buffer[number][column] for column in range(COLUMNS))
        for style, same in groupby(chars, _style):
            line.append("".join(char.data for char in same), style)
        line.rstrip()
        return line


def _style(char: pyte.screens.Char) -> Style:
    return Style(color=_colour(char.fg), bold=char.bold, reverse=char.reverse)


def _colour(name: str) -> str | None:
    if name == "default":
        return None
    names = {"brown": "yellow", "brightbrown": "bright_yellow"}
    hexadecimal = re.fullmatch(r"[0-9a-f]{6}", name)
    return f"#{name}" if hexadecimal else names.get(name, name.replace("bright", "bright_"))


def _save(name: str, title: str, lines: Sequence[Text]) -> None:
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        console = Console(record=True, width=COLUMNS, file=nowhere)
        console.print(Text(f"$ {title}", "bold"))
        for line in lines:
            console.print(line, no_wrap=True)
    picture = console.export_svg(title=title, theme=MONOKAI, unique_id=name)
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / f"{name}.svg").write_text(_FONT_FACE.sub("", picture))
    sys.stdout.write(f"{IMAGES / name}.svg written\n")


if __name__ == "__main__":
    demo()
    watch()
