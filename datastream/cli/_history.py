"""``history``: what a key held before."""

from __future__ import annotations

import json

import click

from datastream import Change
from datastream.cli._open import open_existing
from datastream.cli._output import emit, fields, json_option, one_line, shown_value


@click.command()
@click.argument("url")
@click.argument("key")
@json_option
def history(url: str, key: str, json_lines: bool) -> None:
    """Print every revision of KEY, newest first, of stores that keep their past (git).

    Operation, point (what watch --since takes), time, author, value and message, separated by
    tabs.
    """
    with open_existing(url) as store:
        for change in store.history(key):
            emit(_json_line(change) if json_lines else _plain_line(change))


def _json_line(change: Change) -> str:
    more = {"point": change.point, "author": change.author, "message": change.message}
    return json.dumps(fields(change.entry) | more, ensure_ascii=False)


def _plain_line(change: Change) -> str:
    entry = change.entry
    time = entry.updated_at.isoformat() if entry.updated_at else ""
    subject = change.message.partition("\n")[0]
    texts = (change.point, time, one_line(change.author), shown_value(entry), one_line(subject))
    return "\t".join((str(entry.operation), *texts))
