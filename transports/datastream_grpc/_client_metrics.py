"""What a remote store tells OpenTelemetry, where that is installed: metrics and traces."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from time import perf_counter, time
from typing import TypeAlias

import grpc

from datastream import DatastreamError, Entry
from datastream_grpc._instruments import Family, Instrument, Observed, span_of
from datastream_grpc._status import code_of

Metadata: TypeAlias = tuple[tuple[str, str], ...] | None
"""What a call is made with."""


class ClientMetrics:
    """What one source over gRPC counts.

    Args:
        server: its address.
    """

    def __init__(self, server: str) -> None:
        self.attributes = {"server": server}
        self._lock = threading.Lock()
        self.calls: Counter[tuple[str, str]] = Counter()
        self.seconds: Counter[str] = Counter()
        self.batches = 0
        """Batches that the watch of the store has received."""
        self.reconnects = 0
        """How often the watch was begun anew, since it had ended."""
        self.lag = 0.0
        """Seconds from the time of the newest change until it was received, by two clocks."""
        _family.add(self)

    @contextmanager
    def call(self, method: str) -> Iterator[Metadata]:
        """Around a call: counted, and a span; gives what the server is to know of the span."""
        begin, code = perf_counter(), "OK"
        around = span_of(method, "CLIENT")
        try:
            with around or nullcontext():
                yield _carried() if around is not None else None
        except grpc.RpcError as error:
            code = error.code().name
            raise
        except DatastreamError as error:
            code = code_of(error).name
            raise
        except TimeoutError:
            code = grpc.StatusCode.DEADLINE_EXCEEDED.name
            raise
        except BaseException:
            # Such as a coroutine that was cancelled.
            code = grpc.StatusCode.CANCELLED.name
            raise
        finally:
            self._called(method, code, perf_counter() - begin)

    def received(self, entries: Iterable[Entry]) -> None:
        """Count a batch of changes."""
        self.batches += 1
        times = [entry.updated_at for entry in entries if entry.updated_at is not None]
        if times:
            self.lag = max(0.0, time() - max(times).timestamp())

    def reconnected(self) -> None:
        """Count a watch that was begun anew."""
        self.reconnects += 1

    def _called(self, method: str, code: str, seconds: float) -> None:
        with self._lock:
            self.calls[method, code] += 1
            self.seconds[method] += seconds  # type: ignore[assignment]


def _carried() -> Metadata:
    from opentelemetry import propagate

    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple(carrier.items())


def _one(name: str) -> Callable[[ClientMetrics], Observed]:
    return lambda metrics: iter([(getattr(metrics, name), metrics.attributes)])


def _calls(metrics: ClientMetrics) -> Observed:
    for (method, code), count in list(metrics.calls.items()):
        yield count, metrics.attributes | {"method": method, "code": code}


def _seconds(metrics: ClientMetrics) -> Observed:
    for method, seconds in list(metrics.seconds.items()):
        yield seconds, metrics.attributes | {"method": method}


INSTRUMENTS: tuple[Instrument[ClientMetrics], ...] = (
    Instrument("datastream.client.calls", "counter", "", "Calls, by how they ended", _calls),
    Instrument("datastream.client.call.time", "counter", "s", "Time of calls", _seconds),
    Instrument("datastream.client.batches", "counter", "", "Batches received", _one("batches")),
    Instrument(
        "datastream.client.reconnects", "counter", "", "Watches begun anew", _one("reconnects")
    ),
    Instrument("datastream.client.lag", "gauge", "s", "Age of the newest change", _one("lag")),
)

_family = Family(INSTRUMENTS)
