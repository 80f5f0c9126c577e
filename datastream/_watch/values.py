"""Watches of decoded values: what was, what is; a value that does not decode changes nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from datastream._secrets import without
from datastream.entry import DELETE, Batch, Change, Entry
from datastream.errors import DatastreamError

log = logging.getLogger("datastream")


class ValueChanges:
    """Turns the batches of one subscription into changes of values.

    Args:
        convert: makes of a decoded value what the subscriber wants; whatever it raises leaves
            the last good value in place.
        what: is watched, for the log.
        initial: the first state is news too.
    """

    def __init__(self, convert: Callable[[Any], Any] | None, what: str, *, initial: bool) -> None:
        self._convert = convert
        self._what = what
        self._initial = initial
        self._values: dict[str, Any] = {}

    def __call__(self, batch: Batch) -> Iterator[Change]:
        if batch.reset:
            present = {entry.key for entry in batch.entries}
            for key in [key for key in self._values if key not in present]:
                yield from self._change(_removed(key))
        for entry in batch.entries:
            for change in self._change(entry):
                if self._initial or not batch.initial:
                    yield change

    def _change(self, entry: Entry) -> Iterator[Change]:
        key = entry.key
        old = self._values.get(key)
        if entry.operation is DELETE:
            if key in self._values:
                del self._values[key]
                yield Change(key, old, None, entry)
            return
        try:
            new = entry.decode()
            if self._convert is not None:
                new = self._convert(new)
        except Exception as error:  # noqa: BLE001
            log.warning(
                "%s: %s at revision %s is left out, its last good value stands: %s",
                self._what,
                repr(key),
                repr(entry.revision),
                reason_of(error, entry),
            )
            return
        self._values[key] = new
        yield Change(key, old, new, entry)


def _removed(key: str) -> Entry:
    return Entry(key, b"", "", None, "", DELETE)


def reason_of(error: Exception, entry: Entry) -> str:
    """Why a value was refused, without the value: it may be a secret."""
    text = without(_fault(error), entry.value)
    with suppress(Exception):
        text = without(text, entry.decode())
    return text


def _fault(error: Exception) -> str:
    if isinstance(error, DatastreamError):
        return str(error)
    problems: Any = getattr(error, "errors", None)
    if not callable(problems) or not hasattr(error, "error_count"):
        return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    # pydantic's text repeats the input.
    found: Any = problems(include_url=False, include_input=False, include_context=False)
    return "; ".join(
        ": ".join(filter(None, (".".join(map(str, one["loc"])), one["msg"]))) for one in found
    )
