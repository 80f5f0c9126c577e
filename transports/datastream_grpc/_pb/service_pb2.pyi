import datetime

from google.protobuf import empty_pb2 as _empty_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Operation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPERATION_UNSPECIFIED: _ClassVar[Operation]
    OPERATION_PUT: _ClassVar[Operation]
    OPERATION_DELETE: _ClassVar[Operation]

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_UNSPECIFIED: _ClassVar[State]
    STATE_CONNECTING: _ClassVar[State]
    STATE_READY: _ClassVar[State]
    STATE_STALE: _ClassVar[State]
    STATE_FAILED: _ClassVar[State]
    STATE_CLOSED: _ClassVar[State]

class Feature(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FEATURE_UNSPECIFIED: _ClassVar[Feature]
    FEATURE_WRITE: _ClassVar[Feature]
    FEATURE_COMPARE_AND_SET: _ClassVar[Feature]
    FEATURE_ATOMIC: _ClassVar[Feature]
    FEATURE_TYPES: _ClassVar[Feature]
    FEATURE_LOG: _ClassVar[Feature]
    FEATURE_MESSAGES: _ClassVar[Feature]
    FEATURE_HISTORY: _ClassVar[Feature]
    FEATURE_AT: _ClassVar[Feature]
    FEATURE_REPLAY: _ClassVar[Feature]
    FEATURE_TTL: _ClassVar[Feature]
    FEATURE_TRANSIENT: _ClassVar[Feature]
OPERATION_UNSPECIFIED: Operation
OPERATION_PUT: Operation
OPERATION_DELETE: Operation
STATE_UNSPECIFIED: State
STATE_CONNECTING: State
STATE_READY: State
STATE_STALE: State
STATE_FAILED: State
STATE_CLOSED: State
FEATURE_UNSPECIFIED: Feature
FEATURE_WRITE: Feature
FEATURE_COMPARE_AND_SET: Feature
FEATURE_ATOMIC: Feature
FEATURE_TYPES: Feature
FEATURE_LOG: Feature
FEATURE_MESSAGES: Feature
FEATURE_HISTORY: Feature
FEATURE_AT: Feature
FEATURE_REPLAY: Feature
FEATURE_TTL: Feature
FEATURE_TRANSIENT: Feature

class ListCapabilitiesRequest(_message.Message):
    __slots__ = ("at",)
    AT_FIELD_NUMBER: _ClassVar[int]
    at: str
    def __init__(self, at: _Optional[str] = ...) -> None: ...

class ListCapabilitiesResponse(_message.Message):
    __slots__ = ("capabilities",)
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    capabilities: _containers.RepeatedCompositeFieldContainer[Capability]
    def __init__(self, capabilities: _Optional[_Iterable[_Union[Capability, _Mapping]]] = ...) -> None: ...

class Capability(_message.Message):
    __slots__ = ("key", "value_type")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_TYPE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value_type: str
    def __init__(self, key: _Optional[str] = ..., value_type: _Optional[str] = ...) -> None: ...

class DataRequest(_message.Message):
    __slots__ = ("keys", "match", "since", "revisions", "deletes", "once", "describe", "at", "partial", "lacking", "columns", "heartbeat")
    class RevisionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    KEYS_FIELD_NUMBER: _ClassVar[int]
    MATCH_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    REVISIONS_FIELD_NUMBER: _ClassVar[int]
    DELETES_FIELD_NUMBER: _ClassVar[int]
    ONCE_FIELD_NUMBER: _ClassVar[int]
    DESCRIBE_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    LACKING_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[str]
    match: _containers.RepeatedScalarFieldContainer[str]
    since: str
    revisions: _containers.ScalarMap[str, str]
    deletes: bool
    once: bool
    describe: bool
    at: str
    partial: bool
    lacking: _containers.RepeatedScalarFieldContainer[str]
    columns: bool
    heartbeat: float
    def __init__(self, keys: _Optional[_Iterable[str]] = ..., match: _Optional[_Iterable[str]] = ..., since: _Optional[str] = ..., revisions: _Optional[_Mapping[str, str]] = ..., deletes: _Optional[bool] = ..., once: _Optional[bool] = ..., describe: _Optional[bool] = ..., at: _Optional[str] = ..., partial: _Optional[bool] = ..., lacking: _Optional[_Iterable[str]] = ..., columns: _Optional[bool] = ..., heartbeat: _Optional[float] = ...) -> None: ...

class FollowRequest(_message.Message):
    __slots__ = ("watch", "add", "remove")
    WATCH_FIELD_NUMBER: _ClassVar[int]
    ADD_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    watch: int
    add: DataRequest
    remove: bool
    def __init__(self, watch: _Optional[int] = ..., add: _Optional[_Union[DataRequest, _Mapping]] = ..., remove: _Optional[bool] = ...) -> None: ...

class FollowResponse(_message.Message):
    __slots__ = ("watch", "response", "ended", "error", "text")
    WATCH_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    watch: int
    response: DataResponse
    ended: bool
    error: str
    text: str
    def __init__(self, watch: _Optional[int] = ..., response: _Optional[_Union[DataResponse, _Mapping]] = ..., ended: _Optional[bool] = ..., error: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class DataResponse(_message.Message):
    __slots__ = ("data", "cursor", "initial", "reset", "partial", "description", "created", "author", "message", "point", "unread", "columns")
    class DataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Data
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Data, _Mapping]] = ...) -> None: ...
    DATA_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    INITIAL_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    POINT_FIELD_NUMBER: _ClassVar[int]
    UNREAD_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    data: _containers.MessageMap[str, Data]
    cursor: str
    initial: bool
    reset: bool
    partial: bool
    description: DescribeResponse
    created: _containers.RepeatedScalarFieldContainer[str]
    author: str
    message: str
    point: str
    unread: _containers.RepeatedScalarFieldContainer[str]
    columns: _containers.RepeatedCompositeFieldContainer[Columns]
    def __init__(self, data: _Optional[_Mapping[str, Data]] = ..., cursor: _Optional[str] = ..., initial: _Optional[bool] = ..., reset: _Optional[bool] = ..., partial: _Optional[bool] = ..., description: _Optional[_Union[DescribeResponse, _Mapping]] = ..., created: _Optional[_Iterable[str]] = ..., author: _Optional[str] = ..., message: _Optional[str] = ..., point: _Optional[str] = ..., unread: _Optional[_Iterable[str]] = ..., columns: _Optional[_Iterable[_Union[Columns, _Mapping]]] = ...) -> None: ...

class Columns(_message.Message):
    __slots__ = ("keys", "values", "value_types", "times", "revisions")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    VALUE_TYPES_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    REVISIONS_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[str]
    values: _containers.RepeatedScalarFieldContainer[bytes]
    value_types: _containers.RepeatedScalarFieldContainer[str]
    times: _containers.RepeatedScalarFieldContainer[int]
    revisions: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, keys: _Optional[_Iterable[str]] = ..., values: _Optional[_Iterable[bytes]] = ..., value_types: _Optional[_Iterable[str]] = ..., times: _Optional[_Iterable[int]] = ..., revisions: _Optional[_Iterable[str]] = ...) -> None: ...

class Data(_message.Message):
    __slots__ = ("key", "value", "value_type", "updated_at", "revision", "operation")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    VALUE_TYPE_FIELD_NUMBER: _ClassVar[int]
    UPDATED_AT_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: bytes
    value_type: str
    updated_at: _timestamp_pb2.Timestamp
    revision: str
    operation: Operation
    def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ..., value_type: _Optional[str] = ..., updated_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., revision: _Optional[str] = ..., operation: _Optional[_Union[Operation, str]] = ...) -> None: ...

class WriteRequest(_message.Message):
    __slots__ = ("writes", "message", "author", "id")
    WRITES_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    writes: _containers.RepeatedCompositeFieldContainer[WriteItem]
    message: str
    author: str
    id: str
    def __init__(self, writes: _Optional[_Iterable[_Union[WriteItem, _Mapping]]] = ..., message: _Optional[str] = ..., author: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class WriteItem(_message.Message):
    __slots__ = ("data", "expect", "ttl")
    DATA_FIELD_NUMBER: _ClassVar[int]
    EXPECT_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    data: Data
    expect: str
    ttl: float
    def __init__(self, data: _Optional[_Union[Data, _Mapping]] = ..., expect: _Optional[str] = ..., ttl: _Optional[float] = ...) -> None: ...

class WriteResponse(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[Data]
    def __init__(self, entries: _Optional[_Iterable[_Union[Data, _Mapping]]] = ...) -> None: ...

class HistoryRequest(_message.Message):
    __slots__ = ("key", "at")
    KEY_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    key: str
    at: str
    def __init__(self, key: _Optional[str] = ..., at: _Optional[str] = ...) -> None: ...

class HistoryResponse(_message.Message):
    __slots__ = ("revisions",)
    REVISIONS_FIELD_NUMBER: _ClassVar[int]
    revisions: _containers.RepeatedCompositeFieldContainer[Revision]
    def __init__(self, revisions: _Optional[_Iterable[_Union[Revision, _Mapping]]] = ...) -> None: ...

class Revision(_message.Message):
    __slots__ = ("data", "point", "author", "message")
    DATA_FIELD_NUMBER: _ClassVar[int]
    POINT_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    data: Data
    point: str
    author: str
    message: str
    def __init__(self, data: _Optional[_Union[Data, _Mapping]] = ..., point: _Optional[str] = ..., author: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class ReplayRequest(_message.Message):
    __slots__ = ("keys", "match", "since")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    MATCH_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[str]
    match: _containers.RepeatedScalarFieldContainer[str]
    since: str
    def __init__(self, keys: _Optional[_Iterable[str]] = ..., match: _Optional[_Iterable[str]] = ..., since: _Optional[str] = ...) -> None: ...

class PushRequest(_message.Message):
    __slots__ = ("writes",)
    WRITES_FIELD_NUMBER: _ClassVar[int]
    writes: _containers.RepeatedCompositeFieldContainer[WriteRequest]
    def __init__(self, writes: _Optional[_Iterable[_Union[WriteRequest, _Mapping]]] = ...) -> None: ...

class PushResponse(_message.Message):
    __slots__ = ("answers",)
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    answers: _containers.RepeatedCompositeFieldContainer[PushAnswer]
    def __init__(self, answers: _Optional[_Iterable[_Union[PushAnswer, _Mapping]]] = ...) -> None: ...

class PushAnswer(_message.Message):
    __slots__ = ("id", "response", "error", "text")
    ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    id: str
    response: WriteResponse
    error: str
    text: str
    def __init__(self, id: _Optional[str] = ..., response: _Optional[_Union[WriteResponse, _Mapping]] = ..., error: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class RefreshRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RefreshResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DescribeRequest(_message.Message):
    __slots__ = ("at",)
    AT_FIELD_NUMBER: _ClassVar[int]
    at: str
    def __init__(self, at: _Optional[str] = ...) -> None: ...

class DescribeResponse(_message.Message):
    __slots__ = ("status", "features", "limits", "version", "follows", "snapshots")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FOLLOWS_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    status: Status
    features: _containers.RepeatedScalarFieldContainer[Feature]
    limits: Limits
    version: str
    follows: bool
    snapshots: bool
    def __init__(self, status: _Optional[_Union[Status, _Mapping]] = ..., features: _Optional[_Iterable[_Union[Feature, str]]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., version: _Optional[str] = ..., follows: _Optional[bool] = ..., snapshots: _Optional[bool] = ...) -> None: ...

class Status(_message.Message):
    __slots__ = ("state", "since", "reason", "degraded", "error")
    STATE_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    state: State
    since: _timestamp_pb2.Timestamp
    reason: str
    degraded: str
    error: str
    def __init__(self, state: _Optional[_Union[State, str]] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., reason: _Optional[str] = ..., degraded: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("message_bytes", "keys", "patterns", "pattern_chars")
    MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    PATTERNS_FIELD_NUMBER: _ClassVar[int]
    PATTERN_CHARS_FIELD_NUMBER: _ClassVar[int]
    message_bytes: int
    keys: int
    patterns: int
    pattern_chars: int
    def __init__(self, message_bytes: _Optional[int] = ..., keys: _Optional[int] = ..., patterns: _Optional[int] = ..., pattern_chars: _Optional[int] = ...) -> None: ...
