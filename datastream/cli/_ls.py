"""``ls``: what a store holds."""

from __future__ import annotations

import click

from datastream import Selection, Store
from datastream.cli._exit import say
from datastream.cli._open import opened_at
from datastream.cli._output import as_json, emit, json_option, one_line, print_state
from datastream.cli._select import (
    Keys,
    at_option,
    complete_key,
    left_out,
    selection,
    url_argument,
)


@click.command()
@url_argument
@click.argument("prefixes", nargs=-1, metavar="[PREFIX]...", shell_complete=complete_key)
@selection
@click.option("--keys-only", is_flag=True, help="Just the keys, without reading values.")
@click.option("--long", "is_long", is_flag=True, help="Size and revision, too.")
@at_option
@json_option
def ls(
    url: str,
    *,
    prefixes: tuple[str, ...],
    match: tuple[str, ...],
    exclude: tuple[str, ...],
    keys_only: bool,
    is_long: bool,
    at: str | None,
    json_lines: bool,
) -> None:
    """List what a store holds: everything, or what PREFIX and --match select.

    PREFIX is a key, and all below it: fx lists fx and fx/USD.

    On a pipe: key, type, value and time, separated by tabs; with --long also size and revision.
    """
    selected = Keys(_with_all_below(prefixes), match, exclude)
    with opened_at(url, at) as store:
        if keys_only:
            for key in _keys(store, selected):
                emit(as_json({"key": key}) if json_lines else one_line(key))
            return
        with selected.entries(store) as entries:
            print_state(entries, json_lines=json_lines, is_long=is_long)
        if entries.unread:
            say(left_out(entries.unread))


def _with_all_below(prefixes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(
        key
        for prefix in prefixes
        for key in ((prefix,) if prefix.endswith("/") else (prefix, f"{prefix}/"))
    )


def _keys(store: Store, selected: Keys) -> list[str]:
    chosen = Selection.of(*selected.keys, match=selected.match, exclude=selected.exclude)
    return sorted(c.key for c in store.capabilities() if chosen.matches(c.key))
