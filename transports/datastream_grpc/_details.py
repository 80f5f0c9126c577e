"""Details of an error as google.rpc has them, for clients in other languages."""

from __future__ import annotations

import re
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

DOMAIN = "datastream"
RETRY_AFTER_MS = 500
"""When a client may best try again, in milliseconds: soon, and not all at the same moment."""
RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
FIELDS = {"InvalidKey": "key", "InvalidValue": "value"}

Metadata = tuple[tuple[str, str | bytes], ...]


def details_of(code: grpc.StatusCode, name: str, text: str) -> Metadata:
    """The trailing metadata with the details of an error.

    Args:
        code: its status.
        name: as in ``datastream-error``; "" for one that is none of ours.
        text: what clients are told.
    """
    details: list[Any] = []
    if name:
        details.append(ErrorInfo(reason=_reason(name), domain=DOMAIN))
    if name in FIELDS:
        violation = BadRequest.FieldViolation(field=FIELDS[name], description=text)
        details.append(BadRequest(field_violations=[violation]))
    if code in RETRIED:
        details.append(RetryInfo(retry_delay=Duration(nanos=RETRY_AFTER_MS * 1_000_000)))
    if not details:
        return ()
    status = Status(code=code.value[0], message=text)
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    metadata: Metadata = rpc_status.to_status(status).trailing_metadata
    return metadata


def _reason(name: str) -> str:
    """``KEY_NOT_FOUND`` of ``KeyNotFound``, as google.rpc wants it."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper()
