"""Takes the pictures of the docs: ``python docs/build_images.py``.

A command runs in a terminal of its own, as it does for a user, and its last screen becomes an SVG.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import pyte
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import MONOKAI
from rich.text import Text

IMAGES = Path(__file__).parent / "images"
COLUMNS, LINES = 80, 40
# Rich names a font to be fetched from elsewhere; whoever looks at a picture has one.
_FONT_FACE = re.compile(r"@font-face \{.*?\}", re.DOTALL)


def demo() -> None:
    """The demo at its end."""
    title = "datastream demo"
    command = [sys.executable, "-m", "datastream.cli", "demo"]
    _save("demo", title, screen(command))


def screen(command: Sequence[str]) -> list[Text]:
    """What a command leaves on a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    terminal = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(terminal)
    with subprocess.Popen(  # noqa: S603
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ):
        os.close(theirs)
        while data := _read(ours):
            stream.feed(data)
    os.close(ours)
    lines = [_line(terminal, number) for number in range(LINES)]
    while lines and not lines[-1].plain.strip():
        lines.pop()
    return lines


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        # Linux says so when the last program at the other end has gone.
        return b""


def _line(terminal: pyte.Screen, number: int) -> Text:
    line = Text()
    chars = (terminal.buffer[number][column] for column in range(COLUMNS))
    for style, same in groupby(chars, _style):
        line.append("".join(char.data for char in same), style)
    line.rstrip()
    return line


def _style(char: pyte.screens.Char) -> Style:
    return Style(color=None if char.fg == "default" else char.fg, bold=char.bold)


def _save(name: str, title: str, lines: Sequence[Text]) -> None:
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    console.print(Text(f"$ {title}", "bold"))
    for line in lines:
        console.print(line, no_wrap=True)
    picture = console.export_svg(title=title, theme=MONOKAI, unique_id=name)
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / f"{name}.svg").write_text(_FONT_FACE.sub("", picture))
    sys.stdout.write(f"{IMAGES / name}.svg written\n")


if __name__ == "__main__":
    demo()
