"""A bucket of NATS as its own library sees it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from nats.js.errors import NotFoundError

from tests.bench.nats import Bare
from tests.property.history.backends import Backend
from tests.servers.nats import new_bucket


class Nats(Backend):
    """The other program is NATS's own library; the writer's journal is the truth."""

    moments = False
    exact_resumes = False
    pace = 3.0

    def __init__(self, url: str) -> None:
        from datastream.sources.nats import NatsSource

        self.bucket = new_bucket()
        self.source = lambda: NatsSource([url], self.bucket, create=True, interval=0.2)
        self.source().close()
        self.plain = Bare(url)
        self.kv = self.plain.run(self.plain.js.key_value(self.bucket))

    def commit(self, changes: dict[str, bytes | None]) -> None:
        for key, value in changes.items():
            name = key.replace("/", ".")
            self.plain.run(self.kv.delete(name) if value is None else self.kv.put(name, value))

    def peek(self, key: str) -> bytes | None:
        from nats.js.errors import KeyNotFoundError

        try:
            value: bytes = self.plain.run(self.kv.get(key.replace("/", "."))).value
        except KeyNotFoundError:
            return None
        return value

    def remove_consumers(self) -> None:
        """As an administrator might."""

        async def remove() -> None:
            manager: Any = self.plain.client.jsm()
            for info in await manager.consumers_info(f"KV_{self.bucket}"):
                # Its own store may have been quicker.
                with suppress(NotFoundError):
                    await manager.delete_consumer(f"KV_{self.bucket}", info.name)

        self.plain.run(remove())

    def compact(self) -> None:
        """Remove the markers of what was deleted."""
        self.plain.run(self.kv.purge_deletes(olderthan=-1))

    def close(self) -> None:
        self.plain.run(self.plain.js.delete_key_value(self.bucket))
        self.plain.close()
