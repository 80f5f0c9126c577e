"""Numbers that OpenTelemetry reads, and spans, where it is installed.

What happens is counted in plain numbers, which OpenTelemetry reads when it exports: a delivery must
not cost a call of its API.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cache
from importlib.util import find_spec
from typing import Any, Generic, NamedTuple, TypeVar
from weakref import WeakSet

from datastream_grpc._connection import SERVICE

METER = "datastream"
HAS_API = find_spec("opentelemetry") is not None

Attributes = dict[str, str]
Observed = Iterator[tuple[float, Attributes]]
M = TypeVar("M")


class Instrument(NamedTuple, Generic[M]):
    """One number, as what is counted by an `M` shows it."""

    name: str
    kind: str
    unit: str
    description: str
    observe: Callable[[M], Observed]


class Family(Generic[M]):
    """The instruments of all objects of one kind; they are made once for a process.

    Args:
        instruments: what is told of each object.
    """

    def __init__(self, instruments: Sequence[Instrument[M]]) -> None:
        self._instruments = instruments
        self._live: WeakSet[M] = WeakSet()
        self._lock = threading.Lock()
        self._made = False

    def add(self, counted: M) -> None:
        """Have one more observed, for as long as it is there."""
        if not HAS_API:
            return
        with self._lock:
            self._live.add(counted)
            made, self._made = self._made, True
        if not made:
            self._make()

    def _make(self) -> None:
        from opentelemetry import metrics as api

        meter = api.get_meter(METER)
        for one in self._instruments:
            create = getattr(meter, f"create_observable_{one.kind}")
            callback = self._callback(one, api)
            create(one.name, [callback], unit=one.unit, description=one.description)

    def _callback(self, one: Instrument[M], api: Any) -> Callable[[Any], Iterable[Any]]:
        def observe(_: Any) -> Iterable[Any]:
            with self._lock:
                live = list(self._live)
            return [api.Observation(value, named) for m in live for value, named in one.observe(m)]

        return observe


def span_of(method: str, kind: str, metadata: Any = ()) -> AbstractContextManager[Any] | None:
    """Around a call of `method`: a span; None where nothing records it, as it costs a tenth of one.

    Args:
        kind: of span, ``SERVER`` or ``CLIENT``.
        metadata: says whose child it is, where that is not the present span.
    """
    if not HAS_API or (provider := _tracer_provider()) is None:
        return None
    from opentelemetry import propagate

    carrier = {key: value for key, value in metadata or () if isinstance(value, str)}
    around: AbstractContextManager[Any] = provider.get_tracer(METER).start_as_current_span(
        f"{SERVICE}/{method}",
        context=propagate.extract(carrier) if kind == "SERVER" else None,
        kind=_trace().SpanKind[kind],
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
