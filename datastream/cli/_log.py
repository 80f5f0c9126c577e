"""What the library logs, as lines on stderr like all others of the command line."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOGGER = logging.getLogger("datastream")


class _Lines(logging.Handler):
    """Says each record in one line, those of the library's own bugs with their traceback."""

    def __init__(self, say: Callable[[str], object]) -> None:
        super().__init__(logging.WARNING)
        self._say = say

    def filter(self, record: logging.LogRecord) -> bool:
        # A status is said by the commands that watch one; others end with its error.
        return record.module != "status" or record.exc_info is not None

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.getMessage())
        if record.exc_info:
            self._say(logging.Formatter().formatException(record.exc_info))


@contextmanager
def logged(say: Callable[[str], object]) -> Iterator[None]:
    """Have `say` called with what the library logs."""
    handler = _Lines(say)
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)


def log_calls() -> None:
    """Log every call of a server too, with its time."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
    # Its warnings are said already.
    handler.addFilter(lambda record: record.levelno < logging.WARNING)
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
