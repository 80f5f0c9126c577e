"""``postgres install`` and ``uninstall``: what watching puts beside a table, and its removal."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import click

from datastream.cli._output import emit
from datastream.url import parse, secrets_of

if TYPE_CHECKING:
    from datastream.sources.postgres import PostgresSource

dry_run_option = click.option("--dry-run", is_flag=True, help="Show the SQL, and run none of it.")


@click.group()
def postgres() -> None:
    """The triggers and the change log of a PostgreSQL table.

    The owner of the table installs them; then every role that may read it can watch it.
    """


@postgres.command()
@click.argument("url")
@dry_run_option
def install(url: str, dry_run: bool) -> None:
    """Install the change log of the table that URL names; history=true in it keeps the past.

    What is there already is replaced, history included: watchers get the full state once more,
    and the past begins anew.
    """
    with closing(_source(url)) as source:
        _show(source.install_sql())
        if not dry_run:
            source.install()


@postgres.command()
@click.argument("url")
@dry_run_option
def uninstall(url: str, dry_run: bool) -> None:
    """Remove every trace of the change log and the history; the table stays as it is.

    Also what is left of a table of that name that was dropped.
    """
    with closing(_source(url, may_be_gone=True)) as source:
        _show(source.uninstall_sql())
        if not dry_run:
            source.uninstall()


def _source(url: str, *, may_be_gone: bool = False) -> PostgresSource:
    location = parse(url)
    if location.scheme not in ("postgresql", "postgres"):
        raise click.UsageError(f"{location.shown} is no postgresql: URL")
    try:
        from datastream.sources.postgres import open_postgres, open_remains
    except ImportError as error:
        raise ImportError(
            f'this needs an extra: pip install "datastream-kv[postgres]" ({error})'
        ) from error
    secrets = secrets_of(location, {})
    # To look and not to touch: opened otherwise, it would install by itself.
    source = open_remains(location) if may_be_gone else open_postgres(location, mode="poll")
    source.secrets = secrets
    return source


def _show(statements: Sequence[str]) -> None:
    for statement in statements:
        emit(f"{statement};")
