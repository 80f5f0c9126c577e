"""``cp`` and ``mv``: a key to another key, or a store to another store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
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

    Keys are removed when all were written; those that TARGET cannot hold, or that changed
    meanwhile, stay.
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
        chosen = Keys(selected(keys, match, prefixes), match, exclude).portable
        _between(url, target, chosen, prefixes, expect, is_move=is_move)
    elif any(prefixes):
        raise click.UsageError("--from-prefix and --to-prefix are for two stores; give two URLs")
    elif keys and is_url(keys[-1]):
        raise click.UsageError(f"name the other store before the keys: {url} {keys[-1]} {target}")
    elif renames:
        _within(url, target, keys[0], expect, is_move=is_move)
    else:
        raise click.UsageError("give the URL of another store, or a key and a new key")


def _within(url: str, key: str, new: str, expect: str | None, *, is_move: bool) -> None:
    if key.endswith("/") != new.endswith("/"):
        raise click.UsageError("give two keys, or two prefixes that end in '/'")
    if key == new or (key.endswith("/") and new.startswith(key)):
        raise click.UsageError(f"{new!r} is within {key!r}; give another place")
    with open_existing(url) as store:
        with progress("reading"):
            entries = _entries(store, key)
        renamed = [
            Write(new + entry.key[len(key) :], entry.value, entry.value_type, expect)
            for entry in entries
        ]
        new_keys = {write.key for write in renamed}
        old = [entry for entry in entries if entry.key not in new_keys]
        gone = _deletes(store, old) if is_move else []
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
            moved = _Moved(prefixes)
            _copy_all(source, keys, copier, moved)
            moved.remove(source, store, there, copier.refused)
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


class _Moved:
    """What a move has copied, and removes when all is.

    Args:
        prefixes: as in `Prefixes`.
    """

    def __init__(self, prefixes: Prefixes) -> None:
        self._prefixes = prefixes
        self._entries: list[Entry] = []
        self._sizes: dict[str, int] = {}

    def noted(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """The same; what is needed to remove them later is kept, and no values."""
        for entry in entries:
            self._entries.append(entry._replace(value=b"", updated_at=None))
            self._sizes[entry.key] = len(entry.value)
            yield entry

    def remove(self, source: Store, target: Store, there: Store, refused: Collection[str]) -> None:
        """Remove what was copied, except for what was `refused`.

        Args:
            there: the target, by its own keys.
        """
        moved = [entry for entry in self._entries if entry.key not in refused]
        if not moved:
            return
        new_keys = self._new_keys(moved)
        # Of one prefix within the other, some keys may be new ones of others, but never all.
        moved.sort(key=lambda entry: entry.key in new_keys)
        first = moved[0].key
        was_there = bool(new_keys) and first in there
        with progress("removing", len(moved)) as advance:
            _check_apart(source, target, moved[0])
            if was_there and first not in there:
                # Both are one place: what a key holds there now was moved to it.
                moved = [entry for entry in moved if entry.key not in new_keys]
            write_in_steps(source, _deletes(source, moved[1:]), advance, self._sizes)

    def _new_keys(self, moved: Iterable[Entry]) -> set[str]:
        """The keys that they have in the target, where those are others."""
        old, new = self._prefixes
        return {new + entry.key[len(old) :] for entry in moved} if old != new else set()


def _copy_all(source: Store, keys: Keys, copier: Copier, moved: _Moved) -> None:
    with progress("copying") as advance, keys.entries(source) as entries:
        copier.copy(moved.noted(entries), advance)
    if entries.unread:
        say(left_out(entries.unread))


def _check_apart(source: Store, target: Store, first: Entry) -> None:
    """Remove a first key, and look whether that took it from the target as well.

    One place may have several names: a link, a layer, a server.
    """
    try:
        entry = target.entry(first.key)
    except KeyNotFound:
        return
    source.write(*_deletes(source, [first]))
    if first.key not in target:
        source.write(Write(entry.key, entry.value, first.value_type))
        raise DatastreamError(
            f"{source.name} and {target.name} are the same place; nothing was moved"
        )


def _deletes(store: Store, entries: Sequence[Entry]) -> list[Write]:
    can_expect = Feature.COMPARE_AND_SET in store.features
    return [
        Write(entry.key, None, "", entry.revision if can_expect else ANY_REVISION)
        for entry in entries
    ]
