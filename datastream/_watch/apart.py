"""Newcomers that were given another state than was published: each is told by what it has itself.

A backend whose keys are read one by one, or through a stream that lags behind its reads, shows a
newcomer what was not published yet; one that cannot read a key just now shows it less. What is no
news to all others may be news to it: the DELETE of a key that came and went in between, a value
that is again what it was, or one that can be read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from datastream._watch.diff import revision_of
from datastream._watch.subscription import Subscription
from datastream.entry import Batch, Entry, deleted
from datastream.selection import Selection
from datastream.source import is_below

Given = dict[str, str | None]
"""Revisions a newcomer was given where they differ from those published; None for no value."""


class News(NamedTuple):
    """What is news to one of them."""

    entries: list[Entry]
    before: list[str | None]
    """The revision of each of their keys that it had, None for a missing one."""


class Told(NamedTuple):
    """What a reading, or a write, tells."""

    entries: Sequence[Entry]
    complete: bool = False
    """Keys that are missing among the entries are gone."""
    skipped: frozenset[str] = frozenset()
    """Keys of which it tells nothing."""
    unread: frozenset[str] = frozenset()
    """Likewise, see `Reading.unread`."""
    covers: Callable[[str], bool] | None = None
    """The keys of which it tells; None for all."""

    def is_unread(self, key: str) -> bool:
        """Whether `key` holds what cannot be read."""
        return is_below(key, self.unread)

    def tells_of(self, key: str) -> bool:
        """Whether its silence about `key` means that it is gone."""
        if not self.complete or key in self.skipped or self.is_unread(key):
            return False
        return self.covers is None or self.covers(key)


class Apart:
    """Those newcomers, until what they were given is published. The publisher serialises calls."""

    def __init__(self) -> None:
        self.given: dict[Subscription, Given] = {}
        """What each was given; asked for at every write whether there is any."""

    def __contains__(self, subscription: Subscription) -> bool:
        return subscription in self.given

    def add(self, subscription: Subscription, given: Given) -> None:
        if given:
            self.given[subscription] = given

    def remove(self, subscription: Subscription) -> None:
        self.given.pop(subscription, None)

    def began(
        self, subscription: Subscription, revisions: Mapping[str, str], known: Mapping[str, str]
    ) -> None:
        """A newcomer was given the state that has these revisions; `known` are those published."""
        given: Given = {
            key: revision for key, revision in revisions.items() if known.get(key) != revision
        }
        if len(known) > len(revisions) - len(given):
            # Such as keys that are being written.
            matches = subscription.selection.matches
            given |= {key: None for key in known if key not in revisions and matches(key)}
        self.add(subscription, given)

    def resumed(self, subscription: Subscription, changes: Batch, known: Mapping[str, str]) -> None:
        """A newcomer was given what changed since its cursor; `known` are those published."""
        # Of what it is not told it has what was there at its cursor, as all others have.
        now = {entry.key: revision_of(entry) for entry in changes.entries}
        given = {key: at for key, at in now.items() if known.get(key) != at}
        if lacking := subscription.lacking:
            given |= {key: None for key in known if key not in now and is_below(key, lacking)}
        self.add(subscription, given)

    def news(self, known: Mapping[str, str], told: Told) -> dict[Subscription, News]:
        """What is news to each, by what it has.

        Args:
            known: the revisions published before.
        """
        given = self.given.items()
        return {one: _news(one.selection, had, known, told) for one, had in given}

    def published(self, told: Told) -> None:
        """From here on, what `told` tells of is to each of them as it is to all others."""
        if not self.given:
            return
        keys = {entry.key for entry in told.entries} - told.skipped
        for subscription, given in list(self.given.items()):
            left = {
                key: revision
                for key, revision in given.items()
                if key not in keys and not told.tells_of(key)
            }
            self.remove(subscription)
            self.add(subscription, left)


def _held(given: Given, known: Mapping[str, str]) -> Iterator[str]:
    """The keys that hold something to who was given this."""
    yield from (key for key, revision in given.items() if revision is not None)
    yield from (key for key in known if key not in given)


def _news(selection: Selection, given: Given, known: Mapping[str, str], told: Told) -> News:
    matches = selection.matches
    entries = [e for e in told.entries if e.key not in told.skipped and matches(e.key)]
    present = {entry.key for entry in entries}
    gone = [
        deleted(key)
        for key in _held(given, known)
        if key not in present and told.tells_of(key) and matches(key)
    ]

    def had(entry: Entry) -> str | None:
        return given.get(entry.key, known.get(entry.key))

    news = gone + [entry for entry in entries if (had(entry) or "") != entry.revision]
    return News(news, list(map(had, news)))
