"""What a server says of itself, to each client that asks and in streams when it changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

from datastream import Feature, Store
from datastream.source import WRITING
from datastream_grpc._description import to_description
from datastream_grpc._limits import Limits
from datastream_grpc._open_streams import listed
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._texts import Texts

OF_WRITES = WRITING | {Feature.MESSAGES, Feature.TTL}


class Descriptions:
    """Describes one server.

    Args:
        store: what is served.
        message_bytes: what a client may send at once.
        limits: what else a client may ask for.
        texts: makes those of errors.
        read_only: nobody may write.
    """

    def __init__(
        self, store: Store, message_bytes: int, limits: Limits, texts: Texts, *, read_only: bool
    ) -> None:
        self._store = store
        self._message_bytes = message_bytes
        self._limits = limits
        self._texts = texts
        self._read_only = read_only
        self.messages = self._made()
        """The messages of streams, to those who may write and to those who may not."""
        self._followers: set[Callable[[], None]] = set()

    def of(self, store: Store, *, may_write: bool) -> pb.DescribeResponse:
        """The description of the store, or of what it was, to somebody."""
        may_write = may_write and not self._read_only
        features = store.features if may_write else store.features - OF_WRITES
        status = store.status.current
        return to_description(
            status, features, self._message_bytes, self._limits, self._texts.public
        )

    def tell(self) -> None:
        """Tell all streams how the store stands now."""
        self.messages = self._made()
        for follower in self._followers:
            follower()

    def following(self, changed: Callable[[], None] | None) -> AbstractContextManager[None]:
        """Around a stream: call `changed`, if there is one, when there are other messages."""
        return listed(self._followers, changed)

    def _made(self) -> Mapping[bool, bytes]:
        store = self._store
        return {
            may_write: pb.DataResponse(
                description=self.of(store, may_write=may_write)
            ).SerializeToString()
            for may_write in (True, False)
        }
