"""What a server says of the store behind it: status, features and limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import NamedTuple

from datastream import DatastreamError, Feature, SourceUnavailable, Status
from datastream.errors import printable
from datastream.selection import MAX_KEYS, MAX_PATTERNS
from datastream.source import WELL, WRITING, Health
from datastream_grpc import _convert
from datastream_grpc._limits import Limits
from datastream_grpc._pb import service_pb2 as pb
from datastream_grpc._status import kind_of, public_kind

ASSUMED = frozenset(Feature) - {Feature.TRANSIENT}
"""Of a server that has not said: it is asked, and refuses by itself."""
OLDER = WRITING | {Feature.TYPES, Feature.LOG}
"""Of a server of an older protocol, as far as it may be one of ours."""
OLDER_NOTE = (
    "the server speaks an older protocol: it does not tell how its backend is, and may tell of no "
    "deletes, batches or place to resume from"
)
VERSION = version("datastream-kv")
MAX_REASON = 1000
"""Characters of a reason that are sent."""

_KNOWN = {pb.Feature.Value(f"FEATURE_{feature.name}"): feature for feature in Feature}


class Description(NamedTuple):
    """What a server has said of itself."""

    features: frozenset[Feature]
    health: Health
    limits: Limits = Limits()
    """Of one request."""


OLDER_SERVER = Description(OLDER, Health(degraded=OLDER_NOTE))


def _to_status(status: Status, public: Callable[[str], str]) -> pb.Status:
    degraded = _cut(public(status.degraded))
    told = pb.Status(state=f"STATE_{status.state.name}", degraded=degraded)
    _convert.set_time(told.since, status.since)
    if status.error is not None:
        told.reason = _cut(public(str(status.error)))
        told.error = public_kind(status.error).__name__
    return told


def _to_health(status: pb.Status, where: str) -> Health:
    degraded = printable(status.degraded)
    if status.state in (pb.STATE_UNSPECIFIED, pb.STATE_CONNECTING):
        return Health(degraded=degraded) if degraded else WELL
    since = _convert.time_of(status.since) if status.HasField("since") else None
    return Health(_error_of(status, where), degraded, since)


def to_description(
    status: Status,
    features: Iterable[Feature],
    message_bytes: int,
    limits: Limits,
    public: Callable[[str], str],
) -> pb.DescribeResponse:
    """What a server says of a store that stands so and can do that.

    Args:
        public: makes of a text what clients may know.
    """
    return pb.DescribeResponse(
        status=_to_status(status, public),
        features=[f"FEATURE_{feature.name}" for feature in sorted(features, key=_number)],
        limits=pb.Limits(
            message_bytes=message_bytes,
            keys=limits.keys,
            patterns=limits.patterns,
            pattern_chars=limits.pattern_chars,
        ),
        version=VERSION,
        follows=True,
        snapshots=True,
    )


def from_description(described: pb.DescribeResponse, where: str) -> Description:
    """What the server `where` says; features that are not known here are left out."""
    features = frozenset(_KNOWN[number] for number in described.features if number in _KNOWN)
    told = described.limits
    limits = Limits(
        # Of a server that does not say, ours hold.
        keys=told.keys or MAX_KEYS,
        patterns=told.patterns or MAX_PATTERNS,
        pattern_chars=told.pattern_chars or Limits().pattern_chars,
    )
    return Description(features, _to_health(described.status, where), limits)


def _error_of(status: pb.Status, where: str) -> DatastreamError | None:
    if status.state == pb.STATE_READY:
        return None
    reason = printable(status.reason)
    if status.state == pb.STATE_FAILED:
        return kind_of(status.error, DatastreamError)(f"{where}: {reason}")
    return SourceUnavailable(f"{where}: {reason or 'the store of the server is closed'}")


def _number(feature: Feature) -> int:
    return feature.value


def _cut(text: str) -> str:
    return _convert.as_utf8(text[:MAX_REASON])
