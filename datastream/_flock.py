"""Locks of open files, which the system lets go when the process that holds them ends.

Where a system has none, as Windows, processes are not kept apart: every lock can be had.
"""

from __future__ import annotations

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

AVAILABLE = fcntl is not None
"""Whether this system has them."""


def lock(fd: int, *, wait: bool, shared: bool = False) -> bool:
    """Lock an open file; whether that was possible.

    Args:
        wait: until nobody has it who is in the way.
        shared: beside others who share it.

    Raises:
        OSError: the filesystem has no locks, or the file is closed.
    """
    if fcntl is None:
        return True
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(fd, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(fd: int) -> None:
    """Let go of what `lock` took; closing the file does that, too, unless a child has it."""
    if fcntl is not None:
        fcntl.flock(fd, fcntl.LOCK_UN)
