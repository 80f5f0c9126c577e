"""Entries of one store written to another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from datastream import DatastreamError, Entry, Feature, InvalidKey, InvalidValue, Store, Write
from datastream.cli._exit import say
from datastream.cli._progress import Advance, steps


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
        """Write all of them, as many at once as is sensible."""
        for step in steps(self._target, map(self._write_of, entries)):
            self._write(step)
            advance(len(step))

    def check(self) -> None:
        """Raise if something was left out."""
        if self.refused:
            raise DatastreamError(
                f"{len(self.refused)} keys cannot be held by {self._target.name}, as said above; "
                f"{self.written} others were written"
            )

    def _write_of(self, entry: Entry) -> Write:
        write = Write(entry.key, entry.value, entry.value_type, self._expect)
        return held_by(self._target, write)

    def _write(self, step: Sequence[Write]) -> None:
        try:
            self._target.write(*step)
        except (InvalidKey, InvalidValue) as error:
            if len(step) > 1:
                # One by one, for the sake of those that can be held.
                for write in step:
                    self._write([write])
                return
            self.refused.add(step[0].key)
            say(str(error))
        else:
            self.written += len(step)
