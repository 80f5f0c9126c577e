"""A place in a store, as JSON below the name of the consumer."""

from __future__ import annotations

import logging
import secrets
import zlib
from typing import TYPE_CHECKING, Any

from datastream._consume.file_place import Taken
from datastream._consume.progress import Handled, Progress
from datastream.entry import Entry
from datastream.errors import DatastreamError, InvalidValue, RevisionConflict
from datastream.selection import Selection
from datastream.source import Feature

if TYPE_CHECKING:
    from datastream.store import Store

PARTS = 64
"""Keys over which the revisions are spread, so that a save writes a part of them."""

log = logging.getLogger("datastream")


class StorePlace:
    """A place in a store: ``NAME/cursor``, and ``NAME/revisions/…``.

    Args:
        store: keeps the place, and is not closed here.
        name: of the consumer.
        selection: which keys.
        consumed: which store, see `identity_of`.

    Raises:
        DatastreamError: the store cannot be read, or what is there is no place.
    """

    def __init__(self, store: Store, name: str, selection: Selection, consumed: str = "") -> None:
        self._store = store
        self._name = name
        self._cursor_key = f"{name}/cursor"
        self.progress = Progress(selection, consumed)
        self._parts: list[dict[str, str]] = [{} for _ in range(PARTS)]
        self._revision = ""
        self._changed: set[int] = set()
        # Tells what this consumer has written, though the answer was lost, from what others have.
        self._token = secrets.token_hex(8)
        self._load()

    def save(self, handled: Handled, cursor: str | None, *, durable: bool = True) -> None:
        self.progress.advance(handled, cursor)
        self._advance(handled)
        try:
            stored = self._write()
        except RevisionConflict as error:
            self._reconcile(error)
            stored = self._write()
        self._revision = stored[-1].revision
        self._changed.clear()

    def _write(self) -> list[Entry]:
        # The cursor last: where a store does not write all at once, keys are handled again.
        values: dict[str, Any] = {self._part_key(n): self._parts[n] for n in self._changed}
        values[self._cursor_key] = self._head()
        has_expect = Feature.COMPARE_AND_SET in self._store.features
        expect = {self._cursor_key: self._revision} if has_expect else {}
        return self._store.put_many(values, expect=expect)

    def _reconcile(self, conflict: RevisionConflict) -> None:
        """Go on from what is there, if no other consumer has written it.

        Raises:
            Taken: one has.
        """
        found = self._store.snapshot(self._cursor_key).get(self._cursor_key)
        if found is None:
            log.warning("%s: %s was removed; it is made anew", self._store.name, self._cursor_key)
            self._revision = ""
            self._changed = {number for number, part in enumerate(self._parts) if part}
        elif self._is_own(found):
            self._revision = found.revision
        else:
            raise Taken(
                f"another consumer is using the place {self._cursor_key!r} in {self._store.name}; "
                "stop it first, or give this one another name"
            ) from conflict

    def _is_own(self, found: Entry) -> bool:
        try:
            return bool(found.decode()["by"] == self._token)
        except (InvalidValue, KeyError, TypeError):
            return False

    def close(self) -> None:
        pass

    def _advance(self, handled: Handled) -> None:
        for key, revision in handled.items():
            number = _part_of(key)
            self._changed.add(number)
            if revision is None:
                self._parts[number].pop(key, None)
            else:
                self._parts[number][key] = revision

    def _head(self) -> dict[str, Any]:
        progress = self.progress
        cursor = progress.cursor if progress.begun else None
        head = {"cursor": cursor, "selection": progress.selection, "store": progress.store}
        return {**head, "by": self._token}

    def _part_key(self, number: int) -> str:
        return f"{self._name}/revisions/{number:02x}"

    def _load(self) -> None:
        found = self._store.snapshot(f"{self._name}/")
        try:
            for number in range(PARTS):
                if entry := found.get(self._part_key(number)):
                    self._parts[number] = dict(entry.decode())
                    self.progress.revisions.update(self._parts[number])
            if entry := found.get(self._cursor_key):
                self._revision, head = entry.revision, entry.decode()
                if head["cursor"] is not None:
                    self.progress.found(head["selection"], head["cursor"], head.get("store", ""))
        except (InvalidValue, ValueError, KeyError, TypeError) as error:
            raise DatastreamError(
                f"{self._name}/ in {self._store.name} holds no place of a consumer: {error}; "
                "give this one another name"
            ) from error


def _part_of(key: str) -> int:
    return zlib.crc32(key.encode("utf-8", "surrogatepass")) % PARTS
