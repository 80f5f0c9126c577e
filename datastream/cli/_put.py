"""``put``: one value."""

from __future__ import annotations

from itertools import takewhile

import click

from datastream import Feature
from datastream.cli._open import open_store
from datastream.cli._output import change_printer, json_option
from datastream.cli._select import expect_option, key_argument, message_options, url_argument
from datastream.cli._types import check_type
from datastream.cli._values import given_value
from datastream.cli._words import did_you_mean
from datastream.errors import shown


class _Put(click.Command):
    """A value may be -5: what is no option is an argument. One that is misspelt is none, either."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        options = (one for one in self.get_params(ctx) if isinstance(one, click.Option))
        has_value = {name: not one.is_flag for one in options for name in one.opts}
        rest = iter(args)
        # All that comes after "--" are arguments.
        for arg in takewhile("--".__ne__, rest):
            name, is_whole, _ = arg.partition("=")
            if has_value.get(name) and not is_whole:
                next(rest, None)
            elif name.startswith("--") and name not in has_value and not ctx.resilient_parsing:
                hint = did_you_mean(name, has_value) or "; a value that begins so comes after --"
                ctx.fail(f"no option {shown(name)}{hint}")
        return super().parse_args(ctx, args)


@click.command(cls=_Put, context_settings={"ignore_unknown_options": True})
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
    """Store VALUE at KEY; "-" reads it from standard input, one like "--x" comes after "--".

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
