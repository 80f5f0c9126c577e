"""``history``: what a key held before."""

from __future__ import annotations

import click

from datastream import Revision
from datastream.cli._open import open_existing
from datastream.cli._output import as_json, emit, fields, json_option, one_line, shown_value


@click.command()
@click.argument("url")
@click.argument("key")
@json_option
def history(url: str, key: str, json_lines: bool) -> None:
    """Print every revision of KEY, newest first, of stores that keep their past.

    Git repositories do, versioned S3 buckets, and PostgreSQL tables with history=true in the URL.

    Operation, point (what watch --since takes), time, author, value and message, separated by
    tabs.
    """
    with open_existing(url) as store:
        for revision in store.history(key):
            emit(_json_line(revision) if json_lines else _plain_line(revision))


def _json_line(revision: Revision) -> str:
    more = {"point": revision.point, "author": revision.author, "message": revision.message}
    return as_json(fields(revision.entry) | more)


def _plain_line(revision: Revision) -> str:
    entry = revision.entry
    time = entry.updated_at.isoformat() if entry.updated_at else ""
    subject = revision.message.partition("\n")[0]
    texts = (revision.point, time, one_line(revision.author), shown_value(entry), one_line(subject))
    return "\t".join((str(entry.operation), *texts))
