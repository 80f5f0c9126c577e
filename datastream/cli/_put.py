"""``put``: one value."""

from __future__ import annotations

import click

from datastream import Feature
from datastream.cli._open import open_store
from datastream.cli._output import change_printer, json_option
from datastream.cli._select import expect_option, key_argument, message_options, url_argument
from datastream.cli._types import check_type
from datastream.cli._values import given_value


# A value may be -5: what is no option of ours is an argument.
@click.command(context_settings={"ignore_unknown_options": True})
@url_argument
@key_argument
@click.argument("value", required=False)
@click.option("--stdin", is_flag=True, help="Read the value from standard input, as VALUE - does.")
@click.option(
    "--type",
    "value_type",
    callback=check_type,
    help="int, float, bool, str, json, bytes or a media type.",
)
@expect_option
@click.option("--ttl", type=float, metavar="SECONDS", help="Remove the key after so long.")
@message_options
@json_option
def put(
    url: str,
    key: str,
    value: str | None,
    *,
    stdin: bool,
    value_type: str | None,
    expect: str | None,
    ttl: float | None,
    message: str,
    author: str,
    json_lines: bool,
) -> None:
    """Store VALUE at KEY; "-" reads it from standard input.

    Without --type numbers, true, false, and JSON objects and lists are taken as such, all else
    as text. What does not fit --type is refused. Files, objects and blobs have no type of their
    own: without --type, VALUE is written there as it stands.
    """
    if (value is None) != stdin:
        raise click.UsageError("give either VALUE or --stdin")
    data, name = given_value("-" if value is None else value, value_type, key)
    with open_store(url) as store:
        if value_type is None and Feature.TYPES not in store.features:
            name = "bytes"
        entry = store.put(
            key, data, value_type=name, expect=expect, message=message, author=author, ttl=ttl
        )
    change_printer(json_lines=json_lines)(entry)
