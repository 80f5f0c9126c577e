"""``ls``, ``get``, ``put`` and ``rm``: one answer each."""

from __future__ import annotations

import click

from datastream.cli._open import open_existing, open_store
from datastream.cli._output import change_printer, emit, json_line, json_option, print_state, raw
from datastream.cli._values import given_value
from datastream.source import Feature


@click.command()
@click.argument("url")
@json_option
def ls(url: str, json_lines: bool) -> None:
    """List what a store holds.

    On a pipe: key, type, value and time, separated by tabs.
    """
    with open_existing(url) as store:
        state = store.snapshot()
    print_state([state[key] for key in sorted(state)], json_lines=json_lines)


@click.command()
@click.argument("url")
@click.argument("key")
@json_option
def get(url: str, key: str, json_lines: bool) -> None:
    """Write the value of KEY, as it is stored; text that ends no line gets a newline."""
    with open_existing(url) as store:
        entry = store.entry(key)
    if json_lines:
        emit(json_line(entry))
    else:
        click.echo(raw(entry), nl=False)


# A value may be -5: what is no option of ours is an argument.
@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("url")
@click.argument("key")
@click.argument("value")
@click.option("--type", "value_type", help="int, float, bool, str, json, bytes or a media type.")
@json_option
def put(url: str, key: str, value: str, value_type: str | None, json_lines: bool) -> None:
    """Store VALUE at KEY; "-" reads it from standard input.

    Without --type numbers, true, false, and JSON objects and lists are taken as such, all else
    as text. What does not fit --type is refused. Files, objects and blobs have no type of their
    own: without --type, VALUE is written there as it stands.
    """
    data, name = given_value(value, value_type, key)
    with open_store(url) as store:
        if value_type is None and Feature.TYPES not in store.features:
            name = "bytes"
        entry = store.put(key, data, value_type=name)
    change_printer(json_lines=json_lines)(entry)


@click.command()
@click.argument("url")
@click.argument("key")
def rm(url: str, key: str) -> None:
    """Remove KEY."""
    with open_existing(url) as store:
        store.delete(key)
