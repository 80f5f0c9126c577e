"""Where each part of a bound object comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple

from pydantic import SecretBytes, SecretStr

from datastream import url
from datastream._binding.evaluate import OVERRIDDEN, Evaluator, Outcome
from datastream._binding.paths import at, dotted, leaves
from datastream._binding.state import About, InForce
from datastream._binding.tree import Path
from datastream._secrets import holds_secret
from datastream.entry import Entry, Revision
from datastream.errors import DatastreamError

HIDDEN = "**********"
DEFAULTS = "defaults"
"""The layer below all others: what the model says itself."""
MANY = 200
"""Keys of which each is not looked at apart from the others."""
LOOKED_AT = 20
"""Revisions of a key among which the one in force is looked for."""


class Hidden(NamedTuple):
    """What a field would be without the layers above."""

    layer: str
    """The store that says it, or "defaults"."""
    value: Any
    """Stars where it is a secret; None where it does not validate."""
    revision: str = ""


class Explained(NamedTuple):
    """Where the value of one field comes from."""

    path: str
    value: Any
    """Stars where it is a secret."""
    key: str
    """Empty where no key says it."""
    layer: str
    """The store that says it, or "defaults"."""
    revision: str = ""
    updated_at: datetime | None = None
    author: str = ""
    """Who wrote it, where the backend knows."""
    message: str = ""
    hides: tuple[Hidden, ...] = ()
    """What lower layers that hold the key say, and the default, the highest first."""


class _Below(NamedTuple):
    """What a lower layer holds of a key."""

    layer: str
    entry: Entry | None
    """None for the defaults."""


class _Origin(NamedTuple):
    """What a backend knows of a key."""

    layer: str
    about: About
    below: tuple[_Below, ...]


class Origins:
    """Looks up what a backend knows of keys.

    Args:
        store: is asked; it may be an overlay.
        about: what batches said of keys, by key.
    """

    def __init__(self, store: Any, about: Mapping[str, About]) -> None:
        self._store = store
        self._about = about

    def of(self, entry: Entry) -> _Origin:
        """Layer, author and message, and what is hidden; asks the backend."""
        store = self._store
        layers = self._layers(entry.key)
        # A tombstone further down says nothing.
        below = [_Below(one.layer, one.entry) for one in layers[1:] if not one.hides]
        layer, holder = (layers[0].layer, layers[0].store) if layers else (store.name, store)
        about = self._about.get(entry.key) or _from_history(holder, entry)
        return _Origin(layer, about, (*below, _Below(DEFAULTS, None)))

    def _layers(self, key: str) -> Sequence[Any]:
        explain = getattr(self._store, "explain", None)
        try:
            return () if explain is None else explain(key)
        except DatastreamError:
            # A layer is away, of which nothing is known: the values in force stand all the same.
            return ()


def _from_history(store: Any, entry: Entry) -> About:
    try:
        revisions: Iterator[Revision] = store.history(entry.key)
        for revision in islice(revisions, LOOKED_AT):
            if revision.entry.revision == entry.revision:
                return About(revision.author, revision.message)
    except Exception:  # noqa: BLE001
        # No backend keeps it, or it cannot be asked now: what is known is told all the same.
        return About("", "")
    return About("", "")


class Explainer:
    """Explains one object that is in force.

    Args:
        in_force: the object, and what made it.
        evaluate: makes what would be in force without some of it.
        origins: knows the layers.
    """

    def __init__(self, in_force: InForce, evaluate: Evaluator[Any], origins: Origins) -> None:
        self._outcome, entries = in_force
        self._entries = dict(entries)
        self._evaluate = evaluate
        self._origins = origins
        self._asked: dict[str, _Origin] = {}
        self._without: dict[tuple[str, str], tuple[Outcome[Any] | None, frozenset[str]]] = {}

    def __call__(self) -> dict[str, Explained]:
        """By path, where each field comes from."""
        found = [self._explained(path, value) for path, value in leaves(self._outcome.value)]
        return {one.path: one for one in found}

    def _explained(self, path: Path, value: Any) -> Explained:
        key = self._outcome.key_of(path)
        one = Explained(dotted(path), hidden(path, value), key or "", DEFAULTS)
        if key == OVERRIDDEN:
            return one._replace(layer="overriding")
        entry = self._entries.get(one.key)
        if entry is None:
            return one
        layer, about, below = self._origin(entry)
        hides = [self._hidden(path, entry.key, lower) for lower in below]
        hides = [one for one in hides if one.layer != DEFAULTS or one.value is not None]
        return Explained(*one[:3], layer, entry.revision, entry.updated_at, *about, tuple(hides))

    def _origin(self, entry: Entry) -> _Origin:
        if entry.key not in self._asked:
            self._asked[entry.key] = self._origins.of(entry)
        return self._asked[entry.key]

    def _hidden(self, path: Path, key: str, lower: _Below) -> Hidden:
        outcome = self._outcome_of(key, lower)
        value = None if outcome is None else hidden(path, at(outcome.value, path))
        if lower.entry is not None:
            return Hidden(lower.layer, value, lower.entry.revision)
        other = None if outcome is None else self._entries.get(outcome.key_of(path) or "")
        if other is None:
            return Hidden(lower.layer, value)
        # Another key says it then, such as a JSON object around it.
        return Hidden(self._origin(other).layer, value, other.revision)

    def _outcome_of(self, key: str, lower: _Below) -> Outcome[Any] | None:
        """What would be if `key` held what a lower layer says; None if that is no object.

        Of very many keys, all of them at once: an object for each would take for ever.
        """
        is_many = len(self._entries) > MANY
        place = "" if is_many else key, lower.layer
        if place not in self._without:
            replaced = self._all_of(lower.layer) if is_many else {key: lower.entry}
            self._without[place] = self._evaluated(self._entries | replaced, puts_back=is_many)
        found, required = self._without[place]
        return None if key in required else found

    def _evaluated(
        self, entries: Mapping[str, Entry | None], *, puts_back: bool
    ) -> tuple[Outcome[Any] | None, frozenset[str]]:
        """What these make, None if that is nothing; and the keys that had to be put back.

        Args:
            puts_back: what is required and is missing, since the others are asked about, too.
        """
        left = {name: entry for name, entry in entries.items() if entry is not None}
        outcome = self._evaluate(left, {})
        required = frozenset(self._entries.keys() & outcome.missing) if puts_back else frozenset()
        if required:
            outcome = self._evaluate(left | {name: self._entries[name] for name in required}, {})
        return None if outcome.rejected else outcome, required

    def _all_of(self, layer: str) -> dict[str, Entry | None]:
        """By key, what a lower layer says, of all keys of which it says something."""
        below = (one for entry in self._entries.values() for one in self._below(entry))
        return {key: lower.entry for key, lower in below if lower.layer == layer}

    def _below(self, entry: Entry) -> Iterator[tuple[str, _Below]]:
        return ((entry.key, lower) for lower in self._origin(entry).below)


def hidden(path: Path, value: Any) -> Any:
    """A value as it may be shown."""
    if isinstance(value, SecretStr | SecretBytes):
        return HIDDEN
    if value is not None and any(map(holds_secret, path)):
        return HIDDEN
    return url.shown(value) if isinstance(value, str) and "://" in value else value
