"""``history``: what a key held before."""

from __future__ import annotations

from itertools import chain, islice

import click

from datastream import KeyNotFound, Revision
from datastream.cli._open import open_existing
from datastream.cli._output import as_json, emit, fields, json_option, one_line, shown_value
from datastream.cli._select import key_argument, url_argument
from datastream.errors import shown


@click.command()
@url_argument
@key_argument
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="The newest N only.")
@json_option
def history(url: str, key: str, *, count: int | None, json_lines: bool) -> None:
    """Print every revision of KEY, newest first, of stores that keep their past.

    Git repositories do, versioned S3 buckets, NATS buckets with a history, and PostgreSQL tables
    with history=true in the URL.

    Operation, point (what watch --since takes), time, author, value and message, separated by
    tabs.
    """
    show = _json_line if json_lines else _plain_line
    with open_existing(url) as store:
        revisions = store.history(key)
        first = next(revisions, None)
        if first is None:
            raise KeyNotFound(
                f"{shown(key)} never held anything in {store.name}; "
                "datastream ls URL lists its keys"
            )
        for revision in islice(chain((first,), revisions), count):
            emit(show(revision))


def _json_line(revision: Revision) -> str:
    more = {"point": revision.point, "author": revision.author, "message": revision.message}
    return as_json(fields(revision.entry) | more)


def _plain_line(revision: Revision) -> str:
    entry = revision.entry
    time = entry.updated_at.isoformat() if entry.updated_at else ""
    subject = revision.message.partition("\n")[0]
    point, author = one_line(revision.point), one_line(revision.author)
    texts = (point, time, author, shown_value(entry), one_line(subject))
    return "\t".join((str(entry.operation), *texts))
