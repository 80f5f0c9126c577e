"""Where each part of a bound object comes from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple

from pydantic import SecretBytes, SecretStr

from datastream import url
from datastream._binding.evaluate import OVERRIDDEN, Outcome
from datastream._binding.paths import dotted, leaves
from datastream._binding.state import About
from datastream._binding.tree import Path
from datastream.entry import Entry, Revision

HIDDEN = "**********"
DEFAULTS = "defaults"
"""The layer below all others: what the model says itself."""
LOOKED_AT = 20
"""Revisions of a key among which the one in force is looked for."""

_SECRET = re.compile(
    r"(^|_|-)(pass(word|phrase|wd)?|pwd|secrets?|tokens?|credentials?|(api|access|private)_?key)($|_|-)",
    re.IGNORECASE,
)


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
    hides: tuple[str, ...] = ()
    """Lower layers that hold the key too."""


class Origins:
    """Looks up what a backend knows of keys.

    Args:
        store: is asked; it may be an overlay.
        about: what batches said of keys, by key.
    """

    def __init__(self, store: Any, about: Mapping[str, About]) -> None:
        self._store = store
        self._about = about

    def of(self, entry: Entry) -> tuple[str, About, tuple[str, ...]]:
        """Layer, author and message, and hidden layers; asks the backend."""
        layers = self._layers(entry.key)
        about = self._about.get(entry.key) or self._from_history(entry)
        return layers[0], about, tuple(layers[1:])

    def _layers(self, key: str) -> list[str]:
        explain = getattr(self._store, "explain", None)
        if explain is None:
            return [self._store.name]
        return [str(one.layer) for one in explain(key)] or [self._store.name]

    def _from_history(self, entry: Entry) -> About:
        try:
            revisions: Iterator[Revision] = self._store.history(entry.key)
            for revision in islice(revisions, LOOKED_AT):
                if revision.entry.revision == entry.revision:
                    return About(revision.author, revision.message)
        except Exception:  # noqa: BLE001
            # No backend keeps it, or it cannot be asked now: what is known is told all the same.
            return About("", "")
        return About("", "")


def explained(
    outcome: Outcome[Any], entries: Mapping[str, Entry], origins: Origins
) -> dict[str, Explained]:
    """By path, where each field of the object in force comes from."""
    asked: dict[str, tuple[str, About, tuple[str, ...]]] = {}
    found = {}
    for path, value in leaves(outcome.value):
        key = outcome.key_of(path)
        one = Explained(dotted(path), hidden(path, value), key or "", DEFAULTS)
        entry = entries.get(one.key)
        if key == OVERRIDDEN:
            one = one._replace(layer="overriding")
        elif entry is not None:
            if one.key not in asked:
                asked[one.key] = origins.of(entry)
            layer, about, hides = asked[one.key]
            one = Explained(*one[:3], layer, entry.revision, entry.updated_at, *about, hides=hides)
        found[one.path] = one
    return found


def hidden(path: Path, value: Any) -> Any:
    """A value as it may be shown."""
    if isinstance(value, SecretStr | SecretBytes):
        return HIDDEN
    if value is not None and any(_SECRET.search(name) for name in path):
        return HIDDEN
    return url.shown(value) if isinstance(value, str) and "://" in value else value
