"""As many open files as a server needs."""

from __future__ import annotations

from contextlib import suppress

try:
    import resource
except ImportError:
    # Windows has no such limit.
    resource = None  # type: ignore[assignment]

OTHERS = 1_000
"""Files beside the connections."""


def allow_files(connections: int) -> None:
    """Let this process have so many connections, as far as it may say so itself.

    Systems let a program begin with 1,024 files, often, and raise that by itself.
    """
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHERS
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # Some systems refuse what is below their own limit, too, as macOS does.
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
