"""Which keys: the arguments and options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click
from reactivex import Observable

import datastream
from datastream import Batch, DatastreamError, Entry, Store
from datastream.cli._exit import say
from datastream.errors import shown
from datastream.selection import RESERVED, is_reserved

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


F = TypeVar("F", bound=Callable[..., Any])


class Keys(NamedTuple):
    """What was selected, as `Store.snapshot` and `Store.watch` take it."""

    keys: tuple[str, ...]
    match: tuple[str, ...]
    exclude: tuple[str, ...]

    @property
    def everything(self) -> bool:
        """Nothing was named."""
        return not (self.keys or self.match)

    @property
    def portable(self) -> Keys:
        """Those of users: what the library keeps in a store means something only there.

        Raises:
            DatastreamError: a key of the library was named.
        """
        for key in filter(is_reserved, self.keys):
            raise DatastreamError(
                f"{shown(key)} is kept by datastream for this store, so it stays here; get and put "
                "copy a key as it is"
            )
        return self._replace(exclude=(*self.exclude, f"{RESERVED}**"))

    def watched(self, store: Store, **pace: Any) -> Observable[Batch]:
        """The watch of them."""
        match, exclude = self.match, self.exclude
        return store.watch_batches(*self.keys, match=match, exclude=exclude, **pace)

    def entries(self, store: Store) -> datastream.Entries:
        """What they hold now, read as one goes on."""
        return store.entries(*self.keys, match=self.match, exclude=self.exclude)

    def snapshot(self, store: Store) -> list[Entry]:
        """What they hold now, sorted; what cannot be read is said, and left out."""
        entries, unread = self.read(store)
        if unread:
            say(left_out(unread))
        return entries

    def read(self, store: Store) -> tuple[list[Entry], frozenset[str]]:
        """The same, and what of it cannot be read."""
        state = store.snapshot_batch(*self.keys, match=self.match, exclude=self.exclude)
        return sorted(state, key=lambda entry: entry.key), state.unread


def _complete(
    name: str,
) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    def complete(
        ctx: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        # Loaded when a shell asks, and not by each command.
        from datastream.cli import _complete

        found: list[CompletionItem] = getattr(_complete, name)(ctx, parameter, incomplete)
        return found

    return complete


complete_key = _complete("complete_key")
"""For other arguments that are keys."""
url_argument = click.argument("url", shell_complete=_complete("complete_url"))
key_argument = click.argument("key", shell_complete=complete_key)
keys_argument = click.argument("keys", nargs=-1, metavar="[KEY]...", shell_complete=complete_key)


def left_out(unread: frozenset[str]) -> str:
    """What to say of keys that cannot be read."""
    names = sorted(unread)
    more = f" and {len(names) - 1} more" if names[1:] else ""
    return f"{shown(names[0])}{more} cannot be read and was left out"


def nothing_at(store: Store, key: str, if_folder: str) -> str:
    """What to say of a key that holds nothing.

    Args:
        if_folder: what to do instead, where keys lie below it.
    """
    if any(character in key for character in "*?[{"):
        hint = "datastream ls URL --match selects by pattern"
    elif next(store.entries(f"{key}/"), None) is not None:
        hint = if_folder
    else:
        hint = "datastream ls URL lists its keys"
    return f"{store.name} holds nothing at {shown(key)}; {hint}"


def at_option(command: F) -> F:
    """Option ``--at``."""
    return click.option(
        "--at",
        metavar="REV",
        help="As it was then: a tag, a commit, a time, where there is a past.",
    )(command)


def expect_option(command: F) -> F:
    """Option ``--expect``."""
    return click.option(
        "--expect",
        metavar="REV",
        help='Only if the key has this revision, as ls --long shows it; "" if it holds nothing.',
    )(command)


def message_options(command: F) -> F:
    """Options ``--message`` and ``--author``."""
    author = click.option(
        "--author", default="", metavar="NAME", help="Who, as NAME <ADDRESS>, likewise."
    )
    message = click.option(
        "-m", "--message", default="", metavar="TEXT", help="Why, where the backend keeps it."
    )
    return message(author(command))


def selection(command: F) -> F:
    """Options ``--match`` and ``--exclude``."""
    exclude = click.option(
        "--exclude", multiple=True, metavar="GLOB", help="What to leave out. Repeatable."
    )
    match = click.option(
        "--match", multiple=True, metavar="GLOB", help="* within a segment, ** across. Repeatable."
    )
    return match(exclude(command))
