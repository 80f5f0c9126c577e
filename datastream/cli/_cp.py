"""``cp`` and ``mv``: a key to another key, or a store to another store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import click

import datastream
from datastream import DatastreamError, Entry, Feature, KeyNotFound, Store, Write
from datastream.cli._copying import Copier, held_by
from datastream.cli._exit import say
from datastream.cli._open import is_url, open_existing, open_store
from datastream.cli._output import emit
from datastream.cli._prefixes import (
    Prefixes,
    in_words_of_first,
    prefix_options,
    selected,
    taken,
)
from datastream.cli._progress import progress, write_in_steps
from datastream.cli._select import Keys, left_out, nothing_at, selection, url_argument
from datastream.errors import shown
from datastream.source import ANY_REVISION

F = TypeVar("F", bound=Callable[..., Any])


def _arguments(command: F) -> F:
    keep = click.option("-n", "--no-clobber", is_flag=True, help="Fail if the new key is there.")
    keys = click.argument("keys", nargs=-1, metavar="[KEY]...")
    target = click.argument("target")
    return url_argument(target(keys(selection(prefix_options(keep(command))))))


@click.command()
@_arguments
def cp(url: str, target: str, **options: Any) -> None:
    """Copy the store URL to the store TARGET: everything, or each KEY and what --match selects.

    Or a key to another one of the same store: cp URL KEY NEW_KEY; both may end in "/".

    With --from-prefix A and --to-prefix B, what is A/x in URL becomes B/x in TARGET.

    What TARGET holds already is not written again, what it holds beside stays. What it cannot
    hold is said, and left out.
    """
    _run(url, target, is_move=False, **options)


@click.command()
@_arguments
def mv(url: str, target: str, **options: Any) -> None:
    """Move the store URL to the store TARGET: everything, or each KEY and what --match selects.

    Or a key to another one of the same store: mv URL KEY NEW_KEY; both may end in "/".

    Keys are removed when all were written; those that changed meanwhile are not.
    """
    _run(url, target, is_move=True, **options)


def _run(
    url: str,
    target: str,
    *,
    keys: tuple[str, ...],
    match: tuple[str, ...],
    exclude: tuple[str, ...],
    no_clobber: bool,
    is_move: bool,
    **options: Any,
) -> None:
    expect = "" if no_clobber else None
    prefixes = taken(options)
    renames = len(keys) == 1 and not (match or exclude)
    # What can be no new key, and looks like a URL, is said to be none when it is opened.
    if is_url(target) or (":" in target and not renames):
        chosen = Keys(selected(keys, match, prefixes), match, exclude)
        _between(url, target, chosen, prefixes, expect, is_move=is_move)
    elif any(prefixes):
        raise click.UsageError("--from-prefix and --to-prefix are for two stores; give two URLs")
    elif keys and is_url(keys[-1]):
        raise click.UsageError(f"name the other store before the keys: {url} {keys[-1]} {target}")
    elif renames:
        _within(url, target, keys[0], expect, is_move=is_move)
    else:
        raise click.UsageError("give the URL of another store, or a key and a new key")


def _within(url: str, old: str, new: str, expect: str | None, *, is_move: bool) -> None:
    if old.endswith("/") != new.endswith("/"):
        raise click.UsageError("give two keys, or two prefixes that end in '/'")
    if old == new or (old.endswith("/") and new.startswith(old)):
        raise click.UsageError(f"{new!r} is within {old!r}; give another place")
    with open_existing(url) as store:
        with progress("reading"):
            entries = _entries(store, old)
        renamed = [
            Write(new + entry.key[len(old) :], entry.value, entry.value_type, expect)
            for entry in entries
        ]
        gone = _deletes(store, entries) if is_move else []
        # Both at once, where the backend does both or neither; else the new keys first.
        writes = [held_by(store, write) for write in (*renamed, *gone)]
        with progress("writing", len(writes)) as advance:
            write_in_steps(store, writes, advance)


def _entries(store: Store, key: str) -> list[Entry]:
    if not key.endswith("/"):
        return [store.entry(key)]
    entries = Keys((key,), (), ()).snapshot(store)
    if not entries:
        raise KeyNotFound(f"{store.name} holds nothing below {shown(key)}")
    return entries


def _between(
    url: str, target: str, keys: Keys, prefixes: Prefixes, expect: str | None, *, is_move: bool
) -> None:
    with (
        open_existing(url) as source,
        open_store(target) as there,
        in_words_of_first(there, prefixes) as store,
    ):
        _check_there(source, keys)
        copier = Copier(store, expect)
        if is_move:
            _move(source, store, keys, copier)
        else:
            _copy(source, store, keys, copier)
        copier.check()
    emit(f"{copier.written} keys written")


def _check_there(source: Store, keys: Keys) -> None:
    """Raise if a key that was named holds nothing."""
    for key in keys.keys:
        if not key.endswith("/") and key not in source:
            hint = f"for all below it, write {shown(f'{key}/')}"
            raise KeyNotFound(nothing_at(source, key, hint))


def _copy(source: Store, target: Store, keys: Keys, copier: Copier) -> None:
    compare = partial(datastream.diff, match=keys.match, exclude=keys.exclude)
    with progress("copying") as advance, compare(source, target, *keys.keys) as differences:
        copier.copy((found.a for found in differences if found.a is not None), advance)
        if differences.unread:
            raise DatastreamError(left_out(differences.unread))


def _move(source: Store, target: Store, keys: Keys, copier: Copier) -> None:
    read: list[Entry] = []
    sizes: dict[str, int] = {}
    with progress("copying") as advance, keys.entries(source) as entries:
        copier.copy(_noted(entries, read, sizes), advance)
    if entries.unread:
        say(left_out(entries.unread))
    moved = [entry for entry in read if entry.key not in copier.refused]
    with progress("removing", len(moved)) as advance:
        _check_apart(source, target, moved[:1])
        write_in_steps(source, _deletes(source, moved[1:]), advance, sizes)


def _noted(entries: Iterable[Entry], read: list[Entry], sizes: dict[str, int]) -> Iterator[Entry]:
    """The same; what is needed to remove them later goes to `read`, where no values are kept."""
    for entry in entries:
        read.append(entry._replace(value=b"", updated_at=None))
        sizes[entry.key] = len(entry.value)
        yield entry


def _check_apart(source: Store, target: Store, first: Sequence[Entry]) -> None:
    """Remove a first key, and look whether that took it from the target as well.

    One place may have several names: a link, a layer, a server.
    """
    for entry in target.snapshot(*(entry.key for entry in first)).values():
        source.write(*_deletes(source, first))
        if not target.snapshot(entry.key):
            source.write(Write(entry.key, entry.value, first[0].value_type))
            raise DatastreamError(
                f"{source.name} and {target.name} are the same place; nothing was moved"
            )


def _deletes(store: Store, entries: Sequence[Entry]) -> list[Write]:
    can_expect = Feature.COMPARE_AND_SET in store.features
    return [
        Write(entry.key, None, "", entry.revision if can_expect else ANY_REVISION)
        for entry in entries
    ]
