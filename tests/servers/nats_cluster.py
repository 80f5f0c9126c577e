"""Three NATS servers as one cluster, whose nodes are killed, paused and cut off by the tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self

from tests.servers.nats import Server, await_true, with_client
from tests.servers.postgres import free_port
from tests.servers.proxy import Proxy

ATTEMPTS = 3
FAILOVER = 120.0
"""Seconds that a cluster gets to have a leader again."""


class Cluster:
    """Servers whose routes lead through proxies, so that each can be cut off from both others.

    Args:
        config: more of each server's configuration.
        client: what a plain client needs to come in.
    """

    def __init__(
        self, size: int = 3, *, config: str = "", client: Mapping[str, Any] | None = None
    ) -> None:
        self._client = client or {}
        self._ports = [free_port() for _ in range(size)]
        # The way from each to each other one.
        self._proxies = {
            (a, b): Proxy(self._ports[b]) for a in range(size) for b in range(size) if a != b
        }
        self.servers = [
            Server(config, name=f"n{number}", cluster=self._routes(number))
            for number in range(size)
        ]

    @classmethod
    def started(cls, **options: Any) -> Self:
        """One that takes requests; begun anew if another program has taken one of its ports."""
        for _ in range(ATTEMPTS - 1):
            cluster = cls(**options)
            try:
                return cluster.start()
            except AssertionError:
                cluster.close()
        return cls(**options).start()

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers]

    def start(self) -> Self:
        for server in self.servers:
            server.start(ready=False)
        for server in self.servers:
            server.await_ready()
        await_true(self.leads, "the cluster has a leader", FAILOVER)
        return self

    def close(self) -> None:
        for server in self.servers:
            server.go_on()
            server.close()
        for proxy in self._proxies.values():
            proxy.close()

    def cut_off(self, number: int) -> None:
        """No other server hears of it, nor it of them; clients do."""
        for ends, proxy in self._proxies.items():
            if number in ends:
                proxy.refuse()

    def reconnect(self) -> None:
        for proxy in self._proxies.values():
            proxy.accept()

    def leads(self) -> bool:
        """Whether the cluster takes requests."""
        return "error" not in self.api("INFO", 0)

    def leader(self, bucket: str) -> int:
        """Which server leads the stream of a bucket."""
        found: list[int] = []

        def known() -> bool:
            answer = self.api(f"STREAM.INFO.KV_{bucket}", 0)
            name = answer.get("cluster", {}).get("leader")
            found[:] = [n for n, server in enumerate(self.servers) if server.name == name]
            return bool(found)

        await_true(known, "the stream has a leader", FAILOVER)
        return found[0]

    def api(self, subject: str, number: int) -> Any:
        """What JetStream answers to a request by one of the servers; an error if nothing."""

        async def ask(client: Any) -> Any:
            return json.loads((await client.request(f"$JS.API.{subject}", b"", 5)).data)

        # Connecting fails, too, while all are busy to begin.
        options = {"allow_reconnect": False, "connect_timeout": 5, **self._client}
        try:
            return with_client(self.servers[number].url, ask, **options)
        except Exception as error:
            return {"error": str(error)}

    def consumers(self, bucket: str) -> int:
        """Of a bucket, as its leader knows them."""
        answer = self.api(f"CONSUMER.NAMES.KV_{bucket}", 0)
        return len(answer.get("consumers") or ())

    def _routes(self, number: int) -> str:
        routes = ", ".join(
            f'"nats://127.0.0.1:{proxy.port}"'
            for (a, _), proxy in self._proxies.items()
            if a == number
        )
        return (
            f"cluster {{ name: c, listen: 127.0.0.1:{self._ports[number]}\n"
            f"pool_size: -1, routes: [{routes}] }}"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
