"""Files with keys and tokens, read again when they change."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import NamedTuple

from datastream import DatastreamError

log = logging.getLogger("datastream.grpc")


class _Read(NamedTuple):
    mark: tuple[int, int, int]
    data: bytes


class WatchedFile:
    """A file whose content is asked for often.

    Args:
        path: of the file; read once, so that a missing one is found early.
        what: it holds, for error texts.

    Raises:
        DatastreamError: it cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str], what: str) -> None:
        # So that it is found from another working directory, as that of a daemon.
        self.path = Path(path).absolute()
        self._what = what
        self._read = self._now(None)
        self._is_lost = False

    def data(self) -> bytes:
        """What the file holds; while it cannot be read, what it held last."""
        try:
            self._read = self._now(self._read)
        except DatastreamError as error:
            # Just being replaced, or lost: that must not end what runs.
            if not self._is_lost:
                self._is_lost = True
                log.warning("%s; what it held last stands", error)
        else:
            self._is_lost = False
        return self._read.data

    def _now(self, before: _Read | None) -> _Read:
        try:
            stat = self.path.stat()
            mark = stat.st_mtime_ns, stat.st_size, stat.st_ino
            if before is not None and before.mark == mark:
                return before
            return _Read(mark, self.path.read_bytes())
        except OSError as error:
            raise DatastreamError(
                f"{self.path}: {error.strerror}; give the file of the {self._what}"
            ) from error
