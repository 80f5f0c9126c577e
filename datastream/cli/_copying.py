"""Entries of one store written to another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from datastream import DatastreamError, Entry, Feature, InvalidKey, InvalidValue, Store, Write
from datastream.cli._exit import say
from datastream.cli._progress import Advance, steps
from datastream.cli._words import of_a_later_one, of_one_of_many


def held_by(store: Store, write: Write) -> Write:
    """`write` as `store` can hold it.

    Where types are not kept, they follow from key and content: a file holds what it is given.
    """
    if write.value is None or Feature.TYPES in store.features:
        return write
    return write._replace(value_type="bytes")


class Copier:
    """Writes entries to `target`; what it cannot hold is said, and left out.

    Args:
        target: the store.
        expect: of each write, as in `Write`.
    """

    def __init__(self, target: Store, expect: str | None = None) -> None:
        self._target = target
        self._expect = expect
        self.refused: set[str] = set()
        """Keys that were left out."""
        self.written = 0

    def copy(self, entries: Iterable[Entry], advance: Advance) -> None:
        """Put all of them, as many at once as is sensible."""
        self.write(map(self._write_of, entries), advance)

    def write(self, writes: Iterable[Write], advance: Advance) -> None:
        """Make all of these writes, likewise.

        Raises:
            DatastreamError: it went wrong on the way; the text says how many were made.
        """
        try:
            for step in steps(self._target, (held_by(self._target, write) for write in writes)):
                self._write(step)
                advance(len(step))
        except DatastreamError as error:
            text = of_a_later_one(str(error)) if self.written else str(error)
            raise DatastreamError(f"{text}; {self.written} entries were written") from error

    def check(self) -> None:
        """Raise if something was left out."""
        if self.refused:
            raise DatastreamError(
                f"{len(self.refused)} keys cannot be held by {self._target.name}, as said above; "
                f"{self.written} others were written"
            )

    def _write_of(self, entry: Entry) -> Write:
        return Write(entry.key, entry.value, entry.value_type, self._expect)

    def _write(self, step: Sequence[Write]) -> None:
        try:
            self._target.write(*step)
        except (InvalidKey, InvalidValue) as error:
            if len(step) > 1:
                # In halves, for the sake of those that can be held.
                middle = len(step) // 2
                self._write(step[:middle])
                self._write(step[middle:])
                return
            self.refused.add(step[0].key)
            say(of_one_of_many(str(error)))
        else:
            self.written += len(step)
