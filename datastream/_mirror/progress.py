"""How far a mirror is, and where that is kept: in a file, or in the target itself."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from hashlib import blake2b
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from datastream.errors import DatastreamError, InvalidKey, InvalidValue, SourceUnavailable
from datastream.selection import RESERVED
from datastream.source import Write
from datastream.store import Store

_numbers = count()
# Written with every batch: `json.dumps` would make an encoder each time.
_encode = json.JSONEncoder(separators=(",", ":")).encode


class Progress(NamedTuple):
    """How far a mirror is."""

    source: str
    """Which store it reads, see `identity`."""
    target: str
    """Which store it writes."""
    selection: tuple[tuple[str, ...], ...] = ()
    """Which keys, as lists of keys, prefixes, patterns and what is excluded."""
    cursor: str = ""
    """Up to which place of the source all is in the target; "" if that is not known."""
    target_cursor: str = ""
    """Up to which place of the target it is known what others wrote."""
    written: tuple[str, ...] = ()
    """Keys that the mirror may have written after that place."""
    theirs: tuple[str, ...] = ()
    """Keys that were left to others."""
    suspects: tuple[str, ...] = ()
    """Keys that others may have written, which nobody has decided yet."""
    origins: tuple[str, ...] = ()
    """The stores from which the source in turn is mirrored."""
    words: str = ""
    """How keys and values are translated between the two."""
    is_exact: bool = False
    """The target held exactly what the source did at `cursor`, but for others' keys."""
    refused: tuple[str, ...] = ()
    """Keys that the target could not hold."""
    is_pruned: bool = True
    """What the source had removed was removed from the target."""

    @property
    def of(self) -> tuple[object, ...]:
        """Which mirror it belongs to."""
        return self.source, self.target, self.selection, self.words

    def dumps(self) -> bytes:
        return _encode({"format": 1, **self._asdict()}).encode()

    @classmethod
    def loads(cls, text: bytes, where: str) -> Progress:
        """The progress that was kept.

        Raises:
            DatastreamError: it is damaged, or of a later edition.
        """
        try:
            content = json.loads(text)
            if content.pop("format") != 1:
                raise ValueError("it is of another edition")
            return cls(**{name: _typed(name, value) for name, value in content.items()})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DatastreamError(
                f"{where} is no place of a mirror: {error}; remove it to compare both stores anew"
            ) from error


def _typed(name: str, value: Any) -> Any:
    if name == "selection":
        return tuple(tuple(part) for part in value)
    return tuple(value) if isinstance(value, list) else value


class Place(Protocol):
    """Where a mirror keeps its progress."""

    def load(self) -> Progress | None:
        """What was kept; None if nothing."""
        ...

    def save(self, progress: Progress) -> None:
        """Keep it: it is there after a crash, once this has returned."""
        ...

    @property
    def as_write(self) -> Callable[[Progress], Write] | None:
        """Makes the write that keeps it together with others in the target; None if it is
        elsewhere."""
        ...

    def remove(self) -> None:
        """Keep nothing any more."""
        ...


class InFile:
    """Keeps progress in a file, which is replaced atomically.

    Args:
        path: its directory exists.
    """

    as_write = None

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path).absolute()
        if not self._path.parent.is_dir():
            raise DatastreamError(f"place={str(path)!r}: its directory does not exist; make it")
        if self._path.exists() and not self._path.is_file():
            # Such as a device, which never ends, and would be replaced.
            raise DatastreamError(f"place={str(path)!r} is no file; name a file")

    def load(self) -> Progress | None:
        try:
            return Progress.loads(self._path.read_bytes(), str(self._path))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DatastreamError(f"the place of the mirror cannot be read: {error}") from error

    def save(self, progress: Progress) -> None:
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}-{next(_numbers)}.tmp")
        try:
            # It names keys, for whose store others may have no rights.
            made = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(made, "wb") as file:
                file.write(progress.dumps())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise SourceUnavailable(
                f"the place of the mirror cannot be written: {error}"
            ) from error

    def remove(self) -> None:
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise DatastreamError(f"the place of the mirror cannot be removed: {error}") from error


class InTarget:
    """Keeps progress in the target, under a key of its own.

    Args:
        store: the target.
        name: of the mirror.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._key = f"{MIRRORS}{name}.json"

    def load(self) -> Progress | None:
        entry = self._store._core.get(self._key)
        where = f"{self._key} of {self._store.name}"
        return None if entry is None else Progress.loads(entry.value, where)

    def save(self, progress: Progress) -> None:
        try:
            self._store.write(self.as_write(progress))
        except (InvalidKey, InvalidValue) as error:
            raise DatastreamError(
                f"{self._store.name} cannot hold the place of the mirror, give a file as place=: "
                f"{error}"
            ) from error

    def as_write(self, progress: Progress) -> Write:
        return Write(self._key, progress.dumps(), "json")

    def remove(self) -> None:
        self._store.write(Write(self._key, None))


class Nowhere:
    """Keeps nothing: for a dry run."""

    as_write = None

    def __init__(self, place: Place) -> None:
        self._place = place

    def load(self) -> Progress | None:
        return self._place.load()

    def save(self, progress: Progress) -> None:
        pass

    def remove(self) -> None:
        pass


MIRRORS = f"{RESERVED}mirror/"
"""Keys below it hold the progress of mirrors."""


def default_name(begun: Progress) -> str:
    """The name of a mirror that was given none: the same for the same source, keys and words."""
    words = [begun.words] if begun.words else []
    text = json.dumps([begun.source, begun.selection, *words])
    return blake2b(text.encode(), digest_size=6).hexdigest()
