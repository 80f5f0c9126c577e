"""What a server tells OpenTelemetry, where that is installed: metrics and traces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from time import time
from typing import Any

from datastream import Batch, DatastreamError
from datastream_grpc._instruments import Family, Instrument, Observed, span_of


class Metrics:
    """What one server counts.

    Args:
        server: its address.
        source: the name of the store it serves, without its place.
        streams: tells how many streams are open.
    """

    def __init__(self, server: str, source: str, streams: Callable[[], int]) -> None:
        self.attributes = {"server": server, "source": source}
        self.calls: Counter[tuple[str, str]] = Counter()
        self.seconds: Counter[str] = Counter()
        self.updates = 0
        """Batches of changes, each counted once for all streams."""
        self.deliveries = 0
        """Messages sent to streams."""
        self.behind = 0
        """How often a stream was too far behind, and went on from its cursor."""
        self.lag = 0.0
        """Seconds from the time of the newest change until it was sent."""
        self.streams = streams
        _family.add(self)

    def updated(self, batch: Batch) -> None:
        """Count a batch of changes."""
        self.updates += 1
        times = [entry.updated_at for entry in batch.entries if entry.updated_at is not None]
        if times:
            self.lag = max(0.0, time() - max(times).timestamp())

    def called(self, method: str, outcome: str, seconds: float) -> None:
        """Count a call that has ended."""
        self.calls[method, outcome] += 1
        self.seconds[method] += seconds  # type: ignore[assignment]


def _one(name: str) -> Callable[[Metrics], Observed]:
    return lambda metrics: iter([(getattr(metrics, name), metrics.attributes)])


def _calls(metrics: Metrics) -> Observed:
    for (method, outcome), count in list(metrics.calls.items()):
        yield count, metrics.attributes | {"method": method, "code": outcome}


def _seconds(metrics: Metrics) -> Observed:
    for method, seconds in list(metrics.seconds.items()):
        yield seconds, metrics.attributes | {"method": method}


INSTRUMENTS: tuple[Instrument[Metrics], ...] = (
    Instrument("datastream.server.calls", "counter", "", "Calls and streams that ended", _calls),
    Instrument("datastream.server.call.time", "counter", "s", "Time of calls", _seconds),
    Instrument("datastream.server.updates", "counter", "", "Batches of changes", _one("updates")),
    Instrument("datastream.server.deliveries", "counter", "", "Messages sent", _one("deliveries")),
    Instrument(
        "datastream.server.behind",
        "counter",
        "",
        "Streams that fell too far behind",
        _one("behind"),
    ),
    Instrument(
        "datastream.server.streams",
        "up_down_counter",
        "",
        "Open streams",
        lambda metrics: iter([(metrics.streams(), metrics.attributes)]),
    ),
    Instrument("datastream.server.lag", "gauge", "s", "Age of the newest change", _one("lag")),
)

_family = Family(INSTRUMENTS)


def span(method: str, metadata: Any) -> AbstractContextManager[Any]:
    """Around a call: a span, as a child of the client's where that sends one."""
    return span_of(method, "SERVER", metadata) or nullcontext()


def serve_metrics(port: int, host: str = "127.0.0.1") -> Callable[[], None]:
    """Serve what is counted to Prometheus, at ``http://host:port/metrics``; returns what ends that.

    Raises:
        ImportError: the extra ``telemetry`` is not installed.
        DatastreamError: the port is in use, or none.
    """
    try:
        from opentelemetry import metrics
        from opentelemetry.exporter.prometheus import PrometheusMetricReader
        from opentelemetry.sdk.metrics import MeterProvider
        from prometheus_client import start_http_server
    except ImportError as error:
        raise ImportError(
            f'metrics need an extra: pip install "datastream-kv[telemetry]" ({error})'
        ) from error
    try:
        server, thread = start_http_server(port, host)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise DatastreamError(f"metrics on {host}:{port}: {why}") from error
    provider = MeterProvider([PrometheusMetricReader()])
    metrics.set_meter_provider(provider)

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()
        provider.shutdown()

    return end
