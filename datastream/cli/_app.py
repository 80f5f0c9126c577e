"""The group of all commands."""

from __future__ import annotations

import os
from typing import Any

import click

from datastream.cli._commands import get, ls, put, rm
from datastream.cli._demo import demo
from datastream.cli._exit import exit_code
from datastream.cli._history import history
from datastream.cli._postgres import postgres
from datastream.cli._serve import serve
from datastream.cli._sqlite import sqlite
from datastream.cli._watch import watch


class _App(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        ctx.exit(exit_code(lambda: super(_App, self).invoke(ctx)))

    def list_commands(self, ctx: click.Context) -> list[str]:
        # In the order a newcomer wants them, not by name.
        return list(self.commands)


@click.group(
    cls=_App,
    commands=[demo, ls, get, put, rm, watch, history, serve, postgres, sqlite],
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="datastream-kv")
def main() -> None:
    """Read, write, watch and serve key-value stores.

    URL names a store: sqlite:settings.db, git:REPOSITORY, postgresql://HOST/DB, file:DIRECTORY,
    s3://BUCKET, grpc://127.0.0.1:8080, memory:

    Exit codes: 0 done, 1 it could not be done (one line says why), 2 usage, 130 Ctrl-C.
    """
    # Its C core would log to stderr what we say in one line of our own.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
