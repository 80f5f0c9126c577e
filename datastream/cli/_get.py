"""``get``: one value."""

from __future__ import annotations

import sys

import click

from datastream import KeyNotFound
from datastream.cli._open import opened_at
from datastream.cli._output import emit, json_line, json_option, raw, readable
from datastream.cli._select import at_option, key_argument, nothing_at, url_argument


@click.command()
@url_argument
@key_argument
@click.option("--default", metavar="TEXT", help="What to write if KEY holds nothing.")
@at_option
@json_option
def get(url: str, key: str, *, default: str | None, at: str | None, json_lines: bool) -> None:
    """Write the value of KEY, as it is stored; text that ends no line gets a newline.

    On a terminal, what does not print is escaped.
    """
    if default is not None and json_lines:
        raise click.UsageError("--default is no entry that --json could show; give one of them")
    with opened_at(url, at) as store:
        try:
            entry = store.entry(key)
        except KeyNotFound as error:
            if default is None:
                hint = "datastream ls URL KEY lists what lies below it"
                raise KeyNotFound(nothing_at(store, key, hint)) from error
            emit(default)
            return
    if json_lines:
        emit(json_line(entry))
    elif sys.stdout.isatty():
        emit(readable(entry.value))
    else:
        click.echo(raw(entry), nl=False)
