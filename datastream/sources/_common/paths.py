"""Paths in URLs of local things: ``scheme:PATH`` and ``scheme:///ABSOLUTE/PATH``."""

from __future__ import annotations

import os
from contextlib import suppress

from datastream.errors import DatastreamError
from datastream.url import Location, expanded, unescaped


def local_path(location: Location, example: str, what: str = "path") -> str:
    """The path that a URL names.

    Args:
        location: the URL.
        example: what to write instead of a URL that names none, for the error text.
        what: what the path leads to, for the error text.

    Raises:
        DatastreamError: it names no path, a host, or the home of an unknown user.
    """
    path = location.path.removeprefix("//") if location.path.startswith("///") else location.path
    if not path or path.startswith("//"):
        raise DatastreamError(f"{location.shown!r} names no {what}; write {example}")
    return expanded(unescaped(path))


def fixed(path: str | os.PathLike[str]) -> str:
    """The same place, also once the process has gone to another working directory.

    It is not simplified: where ``link/..`` leads depends on the link.
    """
    # Where the working directory was removed, nothing is there but what has an absolute path.
    with suppress(OSError):
        return os.path.join(os.getcwd(), path)  # noqa: PTH109, PTH118
    return os.fspath(path)
