"""Metrics and traces through OpenTelemetry, where it is installed.

What happens is counted in plain numbers on the event loop, which OpenTelemetry reads when it
exports: a delivery must not cost a call of its API.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec
from time import time
from typing import Any, NamedTuple
from weakref import WeakSet

from datastream import Batch, DatastreamError
from datastream_grpc._connection import SERVICE

METER = "datastream"
HAS_API = find_spec("opentelemetry") is not None

Attributes = dict[str, str]
Observed = Iterator[tuple[float, Attributes]]


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
        if HAS_API:
            _register(self)

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


class _Instrument(NamedTuple):
    name: str
    kind: str
    unit: str
    description: str
    observe: Callable[[Metrics], Observed]


def _one(name: str) -> Callable[[Metrics], Observed]:
    return lambda metrics: iter([(getattr(metrics, name), metrics.attributes)])


def _calls(metrics: Metrics) -> Observed:
    for (method, outcome), count in list(metrics.calls.items()):
        yield count, metrics.attributes | {"method": method, "code": outcome}


def _seconds(metrics: Metrics) -> Observed:
    for method, seconds in list(metrics.seconds.items()):
        yield seconds, metrics.attributes | {"method": method}


INSTRUMENTS = (
    _Instrument("datastream.server.calls", "counter", "", "Calls and streams that ended", _calls),
    _Instrument("datastream.server.call.time", "counter", "s", "Time of calls", _seconds),
    _Instrument("datastream.server.updates", "counter", "", "Batches of changes", _one("updates")),
    _Instrument("datastream.server.deliveries", "counter", "", "Messages sent", _one("deliveries")),
    _Instrument(
        "datastream.server.behind",
        "counter",
        "",
        "Streams that fell too far behind",
        _one("behind"),
    ),
    _Instrument(
        "datastream.server.streams",
        "up_down_counter",
        "",
        "Open streams",
        lambda metrics: iter([(metrics.streams(), metrics.attributes)]),
    ),
    _Instrument("datastream.server.lag", "gauge", "s", "Age of the newest change", _one("lag")),
)

_live: WeakSet[Metrics] = WeakSet()
_lock = threading.Lock()
_made = False


def _register(metrics: Metrics) -> None:
    """Have the instruments observe one more server; they are made once for a process."""
    global _made
    with _lock:
        _live.add(metrics)
        made, _made = _made, True
    if not made:
        _make_instruments()


def _make_instruments() -> None:
    from opentelemetry import metrics as api

    meter = api.get_meter(METER)
    for one in INSTRUMENTS:
        create = getattr(meter, f"create_observable_{one.kind}")
        create(one.name, [_callback(one, api)], unit=one.unit, description=one.description)


def _callback(one: _Instrument, api: Any) -> Callable[[Any], Iterable[Any]]:
    def observe(_: Any) -> Iterable[Any]:
        with _lock:
            live = list(_live)
        return [api.Observation(value, named) for m in live for value, named in one.observe(m)]

    return observe


def span(method: str, metadata: Any) -> AbstractContextManager[Any]:
    """Around a call: a span, as a child of the client's where that sends one."""
    # Without a provider it would be recorded by nobody, and cost a tenth of the call.
    if not HAS_API or (provider := _tracer_provider()) is None:
        return nullcontext()
    from opentelemetry import propagate, trace

    carrier = {key: value for key, value in metadata or () if isinstance(value, str)}
    around: AbstractContextManager[Any] = provider.get_tracer(METER).start_as_current_span(
        f"{SERVICE}/{method}",
        context=propagate.extract(carrier),
        kind=trace.SpanKind.SERVER,
        attributes={"rpc.system": "grpc", "rpc.service": SERVICE, "rpc.method": method},
        record_exception=False,
        set_status_on_exception=False,
    )
    return around


@cache
def _trace() -> Any:
    from opentelemetry import trace

    return trace


def _tracer_provider() -> Any | None:
    """What a program has set up to record spans, if it has."""
    trace = _trace()
    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider) else provider


def serve_metrics(port: int, host: str = "127.0.0.1") -> Callable[[], None]:
    """Serve what is counted to Prometheus, at ``http://host:port/metrics``; returns what ends that.

    Raises:
        ImportError: the extra ``telemetry`` is not installed.
        DatastreamError: the port is in use.
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
    except OSError as error:
        raise DatastreamError(f"metrics on {host}:{port}: {error.strerror}") from error
    provider = MeterProvider([PrometheusMetricReader()])
    metrics.set_meter_provider(provider)

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join()
        provider.shutdown()

    return end
