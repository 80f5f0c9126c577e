"""The group of all commands; only the one that runs is loaded."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from datastream.cli._exit import exit_code, say
from datastream.cli._interrupt import (
    end_if_pressed,
    end_soon_after_ctrl_c,
    interrupt_from_here,
)
from datastream.cli._log import logged
from datastream.cli._standard_files import open_closed_ones, write_utf8
from datastream.cli._words import did_you_mean
from datastream.errors import shown

# In the order a newcomer wants them, not by name.
COMMANDS = {
    "demo": "_demo",
    "ls": "_ls",
    "get": "_get",
    "put": "_put",
    "rm": "_rm",
    "cp": "_cp",
    "mv": "_cp",
    "export": "_export",
    "import": "_import:import_",
    "diff": "_diff",
    "mirror": "_mirror",
    "watch": "_watch",
    "top": "_top",
    "status": "_status_command",
    "history": "_history",
    "serve": "_serve",
    "ping": "_ping",
    "refresh": "_ping",
    "token": "_token",
    "postgres": "_postgres",
    "sqlite": "_sqlite",
    "completion": "_completion",
}
"""Where each command is, and under which name if not its own."""


class _App(click.Group):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        answers: list[Any] = []

        def work() -> None:
            # Not in `main`, which tests call within a process that is to live on.
            open_closed_ones()
            write_utf8()
            end_soon_after_ctrl_c()
            answers.append(self.main(*args, **kwargs))

        try:
            # Help and versions are printed before a command is invoked.
            code = exit_code(work)
            return answers[0] if answers else sys.exit(code)
        finally:
            end_if_pressed()

    def invoke(self, ctx: click.Context) -> Any:
        def work() -> None:
            interrupt_from_here()
            with logged(say):
                super(_App, self).invoke(ctx)

        ctx.exit(exit_code(work))

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        place, _, name = COMMANDS[cmd_name].partition(":")
        module = importlib.import_module(f"datastream.cli.{place}")
        command: click.Command = getattr(module, name or cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"no command {shown(args[0])}{did_you_mean(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)


@click.group(cls=_App, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="datastream-kv")
def main() -> None:
    """Read, write, watch and serve key-value stores.

    URL names a store: sqlite:settings.db, git:REPOSITORY, postgresql://HOST/DB, file:DIRECTORY,
    s3://BUCKET, grpc://127.0.0.1:8080, memory:

    Exit codes: 0 done, 1 it could not be done (one line says why), 2 usage, 130 Ctrl-C.
    """
    # Its C core would log to stderr what we say in one line of our own.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
