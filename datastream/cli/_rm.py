"""``rm``: keys, and all below a prefix."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from datastream import (
    DatastreamError,
    Entry,
    Feature,
    InvalidKey,
    KeyNotFound,
    Overlay,
    Store,
    Write,
)
from datastream.cli._open import is_overlay, open_store
from datastream.cli._progress import Advance, progress, write_in_steps
from datastream.cli._select import (
    Keys,
    expect_option,
    keys_argument,
    message_options,
    nothing_at,
    selection,
    url_argument,
)
from datastream.errors import shown
from datastream.source import ANY_REVISION


@click.command()
@url_argument
@keys_argument
@selection
@click.option("--prefix", "is_prefix", is_flag=True, help="KEY stands for all below it.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before removing several keys.")
@click.option(
    "--hide", is_flag=True, help="Of layers: what lower ones hold of KEY is not to be seen."
)
@expect_option
@message_options
def rm(
    url: str,
    *,
    keys: tuple[str, ...],
    match: tuple[str, ...],
    exclude: tuple[str, ...],
    is_prefix: bool,
    yes: bool,
    hide: bool,
    expect: str | None,
    message: str,
    author: str,
) -> None:
    """Remove each KEY; with --prefix all below it, with --match all that match.

    What --prefix and --match find is removed after a question, or with --yes; if one of the keys
    changes meanwhile, that is an error and it stays.
    """
    if not keys and not match:
        raise click.UsageError("give a KEY or --match")
    if expect is not None and (len(keys) != 1 or is_prefix or match):
        raise click.UsageError("--expect is for a single KEY")
    # Which layer is written must not depend on whether it is there yet: a lower one would be.
    with open_store(url, create=is_overlay(url)) as store:
        if is_prefix or match:
            found = Keys(_prefixes(keys, is_prefix=is_prefix), match, exclude).snapshot(store)
            _confirm(store, found, yes=yes)
            writes = [Write(entry.key, None, "", _unchanged(store, entry)) for entry in found]
        else:
            wanted = ANY_REVISION if expect is None else expect
            writes = [Write(_exact(key), None, "", wanted) for key in keys]
        told = [write._replace(message=message, author=author) for write in writes]
        try:
            with progress("removing", len(told)) as advance:
                if hide:
                    _hide(store, told, advance)
                else:
                    write_in_steps(store, told, advance)
        except KeyNotFound as error:
            missing = [key for key in keys if key not in store]
            if not missing:
                raise
            hint = "to remove all below it, add --prefix"
            raise KeyNotFound(nothing_at(store, missing[0], hint)) from error


def _hide(store: Store, writes: Sequence[Write], advance: Advance) -> None:
    if not isinstance(store, Overlay):
        raise click.UsageError("--hide is for layers, as in overlay:FILE; leave it out")
    for write in writes:
        store.delete(
            write.key,
            expect=None if write.expect == ANY_REVISION else write.expect,
            message=write.message,
            author=write.author,
            hide=True,
        )
        advance(1)


def _exact(key: str) -> str:
    if key.endswith("/"):
        raise InvalidKey(f"{shown(key)} is a prefix; to remove all below it, add --prefix")
    return key


def _prefixes(keys: Sequence[str], *, is_prefix: bool) -> tuple[str, ...]:
    return tuple(key if not is_prefix or key.endswith("/") else f"{key}/" for key in keys)


def _unchanged(store: Store, entry: Entry) -> str:
    return entry.revision if Feature.COMPARE_AND_SET in store.features else ANY_REVISION


def _confirm(store: Store, found: Sequence[Entry], *, yes: bool) -> None:
    if not found:
        raise KeyNotFound(f"{store.name} holds no such key; nothing was removed")
    if yes:
        return
    what = f"{len(found)} keys of {store.name}, {shown(found[0].key)} the first"
    if not sys.stdin.isatty():
        raise DatastreamError(f"this would remove {what}; add --yes to do so")
    if not click.confirm(f"remove {what}?", err=True):
        raise DatastreamError("nothing was removed")
