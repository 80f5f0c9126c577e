"""An observable key-value store you embed, over databases, git, files, S3 and other stores."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from datastream._entries import Entries
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
from datastream.snapshot import Snapshot
from datastream.source import Feature, Write
from datastream.status import State, Status
from datastream.store import Store
from datastream.view import View, ViewSnapshot

if TYPE_CHECKING:
    from datastream._consume.webhook import webhook
    from datastream._mirror.diff import Diff, Difference, diff
    from datastream._mirror.drift import drift
    from datastream._mirror.mirror import Mirror, MirrorCounts, mirror
    from datastream._mirror.plan import Conflict
    from datastream._overlay import Held, Overlay, overlay
    from datastream._translated import translated

__all__ = [
    "Batch",
    "Capability",
    "Change",
    "ChangeBatch",
    "Conflict",
    "DatastreamError",
    "Denied",
    "Diff",
    "Difference",
    "Entries",
    "Entry",
    "Feature",
    "Held",
    "InvalidKey",
    "InvalidValue",
    "KeyNotFound",
    "Mirror",
    "MirrorCounts",
    "Operation",
    "Overlay",
    "ReadOnly",
    "Rejected",
    "Revision",
    "RevisionConflict",
    "Selection",
    "Snapshot",
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
    "diff",
    "drift",
    "mirror",
    "open",
    "overlay",
    "translated",
    "webhook",
]

_ON_USE = {
    "Conflict": "datastream._mirror.plan",
    "Diff": "datastream._mirror.diff",
    "Difference": "datastream._mirror.diff",
    "Held": "datastream._overlay",
    "Mirror": "datastream._mirror.mirror",
    "MirrorCounts": "datastream._mirror.mirror",
    "Overlay": "datastream._overlay",
    "diff": "datastream._mirror.diff",
    "drift": "datastream._mirror.drift",
    "mirror": "datastream._mirror.mirror",
    "overlay": "datastream._overlay",
    "translated": "datastream._translated",
    "webhook": "datastream._consume.webhook",
}
"""What is imported when it is first asked for: not everybody needs it."""


def __getattr__(name: str) -> Any:
    if name not in _ON_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_ON_USE[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_ON_USE})
