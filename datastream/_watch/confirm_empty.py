"""Confirms that a backend is empty: a directory that shows nothing may be one not mounted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from time import monotonic

from datastream.errors import SourceUnavailable

CONFIRM_AFTER = 1.0
"""Seconds between two looks after which it is believed that all watched keys are gone."""


class ConfirmEmpty:
    """Believes that all keys are gone only when a second look, a real time later, says so too.

    Not locked: the owner serialises the calls.
    """

    def __init__(self) -> None:
        self._vanished_at: float | None = None
        self._own_deletes: Counter[str] = Counter()

    def deleting(self, keys: Collection[str]) -> None:
        """From here on, nobody wonders that these are gone: this store deletes them."""
        self._own_deletes.update(keys)

    def deleted(self, keys: Collection[str]) -> None:
        """The deletes of these were published."""
        self._own_deletes.subtract(keys)
        self._own_deletes = +self._own_deletes

    def check(self, known: Mapping[str, str], *, is_empty: bool) -> None:
        """Whether a complete reading may be published over what is known.

        Raises:
            Vanished: it shows nothing, and no second look has confirmed it.
        """
        if not known or not is_empty:
            self._vanished_at = None
            return
        if known.keys() <= self._own_deletes.keys():
            return
        now = monotonic()
        if self._vanished_at is None:
            self._vanished_at = now
        if now - self._vanished_at < CONFIRM_AFTER:
            raise Vanished(
                f"all {len(known)} watched keys vanished at once; the store looks again before "
                "it believes that"
            )

    def clear(self) -> None:
        """Something was published: what comes next is a first look."""
        self._vanished_at = None


class Vanished(SourceUnavailable):
    """All watched keys are gone, and no second look has confirmed it yet."""
