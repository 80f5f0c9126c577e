"""Sockets of this machine, by their paths."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

from datastream.sources._common.paths import fixed

PREFIX = "unix:"
MAX_PATH = 107
"""Bytes of a path, which the system limits."""


def is_unix(address: str) -> bool:
    """Whether `address` is a path."""
    return address.startswith(PREFIX)


def address_of(path: str) -> str:
    """``unix:path``, as gRPC reads it: as a URL."""
    return PREFIX + path.replace("%", "%25")


def path_of(address: str) -> str:
    """Of ``unix:path`` or ``unix:///path``."""
    path = unquote(address.removeprefix(PREFIX))
    # One more, as of "unix:///" before a whole path, is none of it.
    return "/" + path.lstrip("/") if path.startswith("///") else path


def lasting(address: str) -> str:
    """The same address, also once the process has gone to another working directory.

    gRPC looks for a socket whenever it connects, and removes one by its path.
    """
    if not is_unix(address) or not path_of(address):
        return address
    return address_of(fixed(path_of(address)))


def listens(path: str) -> bool:
    """Whether somebody listens there."""
    with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
        client.connect(path)
        return True
    return False


def length_trouble(path: str) -> str:
    """Why no socket can have this path; "" if one can."""
    if not path:
        return "it has no path; write unix:/path/to/socket"
    if len(os.fsencode(path)) > MAX_PATH:
        return f"the path of a socket has at most {MAX_PATH} bytes; choose a shorter one"
    return ""


def client_trouble(path: str) -> str:
    """Why no client can connect to the socket at this path; "" if one can."""
    if "," in path:
        return f"gRPC takes {path!r} for several paths, because of the comma; choose another one"
    return length_trouble(path)


def unix_trouble(address: str) -> str:
    """Why nobody can begin to listen there, or connect; "" if that is not known.

    gRPC takes the place of a socket whose server still runs, and its clients with it.
    """
    path = path_of(address)
    if trouble := client_trouble(path):
        return trouble
    if not Path(path).parent.is_dir():
        return "there is no such directory"
    with suppress(OSError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return "there is a file that is no socket"
    return "in use; choose another path" if listens(path) else ""
