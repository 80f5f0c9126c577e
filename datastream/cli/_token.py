"""``token``: bearer tokens for servers."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import click

from datastream.cli._output import emit
from datastream.errors import DatastreamError, shown

BYTES = 32
"""Of randomness: no token can be guessed."""


@click.group()
def token() -> None:
    """Make bearer tokens for ``serve --token-file``."""


@token.command()
@click.argument("name", default="")
@click.option(
    "--file", "path", metavar="FILE", help="Add it to this file; the server reads it again."
)
def new(name: str, path: str | None) -> None:
    """Print a new token, of NAME if rules are to know it by one."""
    if any(not character.isprintable() or character.isspace() for character in name):
        raise DatastreamError(f"{shown(name)} is no name; write one word, such as web")
    made = secrets.token_urlsafe(BYTES)
    if path is not None:
        _append(Path(path), f"{name} {made}".strip())
    emit(made)


def _append(file: Path, line: str) -> None:
    # Nobody else may read it, from the first moment on.
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "r+b") as stream:
        stream.seek(0)
        before = stream.read()
        separator = b"" if not before or before.endswith(b"\n") else b"\n"
        stream.write(separator + line.encode() + b"\n")
