"""The store of another process as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from datastream import Capability, Entry, Revision
from datastream.selection import Selects
from datastream.source import WRITING, Reading
from datastream.sources._common.past import ReadOnlyPast
from datastream_grpc._calls import Calls
from datastream_grpc._description import from_description
from datastream_grpc._status import translated
from datastream_grpc._stream import Wanted


class PastSource(ReadOnlyPast):
    """A Source over what a server held at a point in the past.

    Args:
        calls: of the server; they end with the source that has them.
        point: of the past.

    Raises:
        DatastreamError: the server knows no such point.
    """

    def __init__(self, calls: Calls, point: str) -> None:
        super().__init__(calls.where)
        self._calls = calls
        self._point = point
        self.features = from_description(calls.describe_at(point), calls.where).features - WRITING

    def capabilities(self) -> Sequence[Capability]:
        return self._calls.capabilities(self._point)

    def read(self, selection: Selects, since: str | None) -> Reading:
        reading = self._calls.state(Wanted.of(selection), self._point)
        # What is past does not change.
        return (
            reading._replace(entries=(), complete=False) if since == reading.position else reading
        )

    def get(self, key: str) -> Entry | None:
        return self._calls.entry(key, self._point)

    def history(self, key: str) -> Iterator[Revision]:
        """As in `HasHistory`."""
        return self._calls.history(key, self._point)

    def translate(self, error: Exception, key: str | None) -> Exception:
        return translated(error, self._calls.where)
