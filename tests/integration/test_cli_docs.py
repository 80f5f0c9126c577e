"""docs/command-line.md: its blocks print what they say, and no command or option is missing."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from datastream.cli import main
from tests.integration.command_line import run

PAGE = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text()
ELSEWHERE = {"serve", "demo", "postgres", "sqlite"}
"""Commands whose options are on pages of their own."""


def examples() -> Iterator[tuple[str, list[str]]]:
    """Commands with the lines that they print."""
    for block in re.findall(r"^```console\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
        for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *lines = example.splitlines()
            yield command, lines


def pipe(command: str) -> list[str]:
    """What `command` prints: programs joined by pipes, the output of the last one to a file."""
    command, _, file = command.partition(" > ")
    data, errors = b"", ""
    for part in command.split(" | "):
        name, *arguments = shlex.split(part)
        if name == "echo":
            data = f"{arguments[0]}\n".encode()
            continue
        assert name == "datastream"
        result = run(*arguments, stdin=data)
        data, errors = result.stdout_bytes, result.stderr
    if file:
        assert data
        Path(file).write_bytes(data)
        data = b""
    return (data.decode() + errors).splitlines()


def test_examples_print_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = list(examples())
    assert len(found) > 20
    for command, lines in found:
        assert pipe(command) == lines, command


def test_every_command_and_option_is_there() -> None:
    context = click.Context(main)
    for name in main.list_commands(context):
        assert f"`{name}`" in PAGE or f"`{name} " in PAGE, name
        command = main.get_command(context, name)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter, click.Option) and name not in ELSEWHERE:
                assert any(option in PAGE for option in parameter.opts), f"{name} {parameter.opts}"
