"""How many connections a process can have beside the files of its backend."""

from __future__ import annotations

try:
    import resource
except ImportError:
    # Windows has no such limit.
    resource = None  # type: ignore[assignment]

RESERVED = 256
"""Files that the backend and all else may open; of a small limit, half of it."""


def most_connections(wanted: int) -> int:
    """As many as are wanted, and no more than leave files to the backend.

    Anybody may connect and say nothing, and a backend that can open no file is away for all.
    """
    most = _open_files()
    return wanted if most is None else min(wanted, max(1, most - min(RESERVED, most // 2)))


def _open_files() -> int | None:
    """What the system allows; None for any number."""
    if resource is None:
        return None
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if soft == resource.RLIM_INFINITY else soft
