"""How a stream begins: from where it goes on, and what its first batch has to say."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from datastream import Batch, Store
from datastream.aio import AsyncWatch
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._scope import Scope


class Opening(NamedTuple):
    """A watch for one stream."""

    watch: AsyncWatch[Batch]
    scope: Scope
    reset: bool
    """The first batch is the full state, in place of what the client has."""
    lost: Batch
    """DELETEs of what the client has, and may not read any more."""

    def first(self, batch: Batch) -> Batch:
        """The first batch as it is sent."""
        batch = self.scope.shown(batch)
        if self.reset or self.lost.entries:
            entries = (*batch.entries, *self.lost.entries)
            return replace(batch, entries=entries, reset=batch.reset or self.reset)
        return batch


def open_watch(
    store: Store, scope: Scope, request: pb.DataRequest, *, is_again: bool = False
) -> Opening:
    """The watch that a request asks for.

    Args:
        is_again: what may be read has changed, so that the client gets the full state anew.
    """
    since: str | dict[str, str] | None = None
    lost = Batch()
    is_foreign = False
    if request.since and not is_again:
        since = scope.cursor_of(request.since)
        is_foreign = since is None
    elif request.revisions and not is_again:
        since = dict(request.revisions)
        lost = scope.lost(since)
    watch = scope.watch(
        store,
        since or None,
        # Another store's stream, whose subscribers may have read later states meanwhile.
        transient=request.deletes,
        lacking=request.lacking if since else (),
    )
    return Opening(watch, scope, is_again or is_foreign, lost)
