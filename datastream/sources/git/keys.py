"""Keys and the paths of git's trees: one to one, and the rules of what may be written."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from dulwich.index import validate_path_element_hfs, validate_path_element_ntfs

from datastream.errors import InvalidKey, shown

MAX_DEPTH = 200
"""Most folders that a file which is written lies in."""
MAX_NAME, MAX_PATH = 255, 4096
"""Longest name between two slashes, and longest path, that file systems can check out."""

_ESCAPE = re.compile(r"\\x([0-9a-f]{2})")


def key_of(path: bytes) -> str:
    r"""The key of a path: its text, with ``\xHH`` for bytes that are not UTF-8."""
    try:
        text = path.decode()
    except UnicodeDecodeError:
        return _escaped(path)
    return _escaped(path) if "\\x" in text and _ESCAPE.search(text) else text


def _escaped(path: bytes) -> str:
    # A backslash that reads like an escape is escaped itself, so that every key has one path.
    plain = path.decode("utf-8", "surrogateescape")
    plain = _ESCAPE.sub(r"\\x5cx\1", plain)
    return plain.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def path_of(key: str) -> bytes:
    """The path of a key; of one that no path has, some path that is not there."""
    if "\\x" not in key:
        return key.encode()
    return b"".join(
        bytes.fromhex(part) if number % 2 else part.encode()
        for number, part in enumerate(_ESCAPE.split(key))
    )


def check_path(key: str, path: bytes) -> None:
    """Refuse to write what git refuses to check out, on this or another system.

    Raises:
        InvalidKey: the key is such.
    """
    if key_of(path) != key:
        raise InvalidKey(
            rf"{shown(key)} has an escape that is not needed; \xHH stands for what is no UTF-8"
        )
    names = path.split(b"/")
    if b"" in names:
        raise InvalidKey(f"{shown(key)} has an empty name before, between or after slashes")
    if len(path) > MAX_PATH or max(map(len, names)) > MAX_NAME:
        raise InvalidKey(
            f"{shown(key)} is too long to be checked out: {MAX_PATH} bytes, "
            f"{MAX_NAME} between two slashes"
        )
    if not is_checked_out(path):
        raise InvalidKey(
            f"{shown(key)} names '.', '..' or a spelling of '.git', which git refuses; rename it"
        )


def is_checked_out(path: bytes) -> bool:
    """Whether git checks out a file of that path."""
    return all(map(_is_safe, path.split(b"/")))


def _is_safe(name: bytes) -> bool:
    if not validate_path_element_ntfs(name) or name in (b"", b".", b".."):
        return False
    try:
        name.decode()
    except UnicodeDecodeError:
        return True
    return validate_path_element_hfs(name)


def folded(name: bytes) -> str:
    """What `name` is on a file system that ignores case and Unicode's spellings."""
    text = name.decode("utf-8", "surrogateescape")
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def check_case(key: str, name: bytes, siblings: Iterable[bytes]) -> None:
    """Refuse a new name beside one that only differs in case.

    Raises:
        InvalidKey: there is such a one.
    """
    wanted = folded(name)
    for sibling in siblings:
        if folded(sibling) == wanted:
            raise InvalidKey(
                f"{shown(key)} differs from {shown(key_of(sibling))}, which is there, only in "
                "case; some systems could not check out both"
            )
