"""How a watch for a stream begins, at first and anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from datastream import Batch, Store
from datastream.aio import AsyncWatch
from datastream_grpc._limits import Charged
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._scope import Scope


class Place:
    """Where the client of a stream is, so that a watch can be made anew.

    Args:
        request: of the stream.
    """

    def __init__(self, request: pb.DataRequest) -> None:
        # Step by step: a `dict` of very many would be made in one, and hold up all other threads.
        revisions = {key: revision for key, revision in request.revisions.items()}  # noqa: C416
        self.since: str | Mapping[str, str] = request.since or revisions
        self.lacking = set(request.lacking)
        self.has_begun = False
        """The client has been sent its first batch."""
        self.reset = False
        """The next first batch is the full state, in place of all that the client has."""

    def sent(self, batch: Batch) -> None:
        """Take in what the client is sent."""
        self.since, self.has_begun = batch.cursor, True
        if batch.initial:
            self.reset = False
            self.lacking.update(batch.unread)
        if not batch.cursor:
            self.start_over()

    def start_over(self) -> None:
        """Begin with the full state: nothing that the client has counts."""
        self.since, self.reset = "", True
        self.lacking.clear()


class Opening:
    """A watch for one stream.

    Args:
        store: what is watched.
        scope: what the client may see of it.
        place: where the client is.
        request: of the stream.
        charge: counts what waits for it.
    """

    def __init__(
        self, store: Store, scope: Scope, place: Place, request: pb.DataRequest, charge: Charged
    ) -> None:
        self.scope = scope
        self.place = place
        self._lost = Batch()
        since: str | Mapping[str, str] | None = place.since
        if isinstance(since, str) and since:
            since = scope.cursor_of(since)
            if since is None:
                place.start_over()
        elif since and not isinstance(since, str):
            self._lost = scope.lost(since)
        self.watch: AsyncWatch[Batch] = scope.watch(
            store,
            since or None,
            # Another store's stream, whose subscribers may have read later states meanwhile.
            transient=request.deletes,
            lacking=place.lacking,
            charge=charge,
        )

    def first(self, batch: Batch) -> Batch:
        """The first batch of the watch as it is sent."""
        batch, place = self.scope.shown(batch), self.place
        reset = batch.reset or place.reset
        # The client of a watch that was made anew goes on.
        initial = reset or not place.has_begun
        if reset == batch.reset and initial and not self._lost.entries:
            return batch
        entries = (*batch.entries, *self._lost.entries)
        return replace(batch, entries=entries, initial=initial, reset=reset)
