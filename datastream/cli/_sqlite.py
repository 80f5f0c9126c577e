"""``sqlite restore`` and ``uninstall``: a file's content replaced, and the change log removed."""

from __future__ import annotations

import click

from datastream.url import parse


@click.group()
def sqlite() -> None:
    """SQLite files: replace the content of one that is open, remove a change log."""


@sqlite.command()
@click.argument("new")
@click.argument("target")
@click.option("--timeout", default=5.0, show_default=True, help="Seconds to wait for locks.")
def restore(new: str, target: str, timeout: float) -> None:
    """Put the content of the file NEW in place of that of the file TARGET.

    All of it in one transaction, while other programs have TARGET open; NEW stays as it is.
    Watchers of TARGET are offered the difference. Never copy or move a file over a database that
    is open.
    """
    from datastream.sources.sqlite import restore as put_in_place

    put_in_place(new, target, timeout=timeout)


@sqlite.command()
@click.argument("url")
def uninstall(url: str) -> None:
    """Remove the triggers and the change log of the table that URL names.

    The table stays as it is, or may have been dropped. To drop the log by other means, drop its
    triggers, too: without the log they let no program write to the table.
    """
    from datastream.sources.sqlite import uninstall_sqlite

    location = parse(url)
    if location.scheme != "sqlite":
        raise click.UsageError(f"{location.shown} is no sqlite: URL")
    uninstall_sqlite(location)
