"""An observable key-value store you embed, over databases, git, files, S3 and other stores."""

from datastream._overlay import Held, Overlay, overlay
from datastream._registry import open
from datastream.entry import (
    Batch,
    Capability,
    Change,
    ChangeBatch,
    Entry,
    Operation,
    Rejected,
    Revision,
)
from datastream.errors import (
    DatastreamError,
    Denied,
    InvalidKey,
    InvalidValue,
    KeyNotFound,
    ReadOnly,
    RevisionConflict,
    SourceUnavailable,
    StoreClosed,
    Unreadable,
    Unsupported,
)
from datastream.selection import Selection
from datastream.source import Feature, Write
from datastream.status import State, Status
from datastream.store import Store
from datastream.view import View, ViewSnapshot

__all__ = [
    "Batch",
    "Capability",
    "Change",
    "ChangeBatch",
    "DatastreamError",
    "Denied",
    "Entry",
    "Feature",
    "Held",
    "InvalidKey",
    "InvalidValue",
    "KeyNotFound",
    "Operation",
    "Overlay",
    "ReadOnly",
    "Rejected",
    "Revision",
    "RevisionConflict",
    "Selection",
    "SourceUnavailable",
    "State",
    "Status",
    "Store",
    "StoreClosed",
    "Unreadable",
    "Unsupported",
    "View",
    "ViewSnapshot",
    "Write",
    "open",
    "overlay",
]
