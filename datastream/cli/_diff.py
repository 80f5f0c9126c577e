"""``diff``: how two stores differ."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import click

import datastream
from datastream import Difference, Entry
from datastream.cli._exit import failing_with, say
from datastream.cli._open import open_existing
from datastream.cli._output import (
    as_json,
    emit,
    fields,
    has_colour,
    json_option,
    one_line,
    shown_value,
)
from datastream.cli._prefixes import in_words_of_first, prefix_options, selected, taken
from datastream.cli._progress import progress
from datastream.cli._select import keys_argument, left_out, selection, url_argument

MARKS = {"only_a": "-", "only_b": "+", "changed": "~"}
TROUBLE = 2
"""The exit code of a comparison that failed, as of diff(1)."""
STYLES = {"only_a": "red", "only_b": "green", "changed": "yellow"}


@click.command()
@url_argument
@click.argument("other")
@keys_argument
@selection
@prefix_options
@click.option("--keys-only", is_flag=True, help="Just the mark and the key.")
@click.option(
    "--exit-code",
    is_flag=True,
    help="Exit with 1 if they differ, with 2 if not all could be compared.",
)
@json_option
def diff(
    url: str,
    other: str,
    *,
    keys: tuple[str, ...],
    match: tuple[str, ...],
    exclude: tuple[str, ...],
    keys_only: bool,
    exit_code: bool,
    json_lines: bool,
    **prefixes: Any,
) -> None:
    """Say how the store OTHER differs from the store URL, sorted by key.

    One line a key: "-" where only URL holds it, "+" where only OTHER does, "~" where they hold
    different values; then the key, the value in URL and the one in OTHER, separated by tabs.

    With --from-prefix A and --to-prefix B, B/x in OTHER stands for A/x in URL.
    """
    show = _json_line if json_lines else _mark_and_key if keys_only else _plain_line
    code = 0
    both = taken(prefixes)
    keys = selected(keys, match, both)
    with (
        failing_with(TROUBLE) if exit_code else nullcontext(),
        open_existing(url) as a,
        open_existing(other) as there,
        in_words_of_first(there, both) as b,
        progress("comparing"),
        datastream.diff(a, b, *keys, match=match, exclude=exclude) as differences,
    ):
        for difference in differences:
            code = 1
            _print(difference, show, in_colour=not json_lines)
        if differences.unread:
            code = TROUBLE
            say(left_out(differences.unread))
    if exit_code and code:
        raise SystemExit(code)


def _print(difference: Difference, show: Callable[[Difference], str], *, in_colour: bool) -> None:
    text = show(difference)
    emit(click.style(text, fg=STYLES[difference.kind]) if in_colour and has_colour() else text)


def _plain_line(difference: Difference) -> str:
    return "\t".join((_mark_and_key(difference), _value(difference.a), _value(difference.b)))


def _mark_and_key(difference: Difference) -> str:
    return f"{MARKS[difference.kind]}\t{one_line(difference.key)}"


def _value(entry: Entry | None) -> str:
    return "" if entry is None else shown_value(entry)


def _json_line(difference: Difference) -> str:
    key, kind, a, b = difference
    return as_json({"key": key, "kind": kind, "a": a and fields(a), "b": b and fields(b)})
