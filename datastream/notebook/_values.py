"""Values as they may be shown: cut to a length, bytes in hex, secrets as stars."""

from __future__ import annotations

import re
from codecs import getincrementaldecoder
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

from datastream._secrets import hide, holds_secret
from datastream.entry import Entry, Operation
from datastream.notebook._parts import CELL_CHARS, dim, text, visible

HEX_BYTES = 16
"""Bytes shown of a value that is no text."""
STARS = "**********"

# A field of JSON, YAML, TOML or an ini file; the end of its value may be cut off.
# A name is tried at its begin alone, and as a whole: else a long one would take for ever.
_FIELD = re.compile(
    r"""(["']?)(?<![\w.-])([\w.-]++)\1(\s*[:=]\s*)("(?:[^"\\]|\\.)*(?:"|$)|'[^']*(?:'|$)|[^\s,;{}\[\]]+)"""
)

# A header of HTTP, as such or as a field, and a key in PEM, whose end may be cut off.
_AUTHORIZATION = re.compile(
    r"""(?i)(\bauthorization["']?\s{0,9}[:=]\s{0,9}["']?)(?:(?:basic|bearer|token)\s+)?[^\s"',;]+"""
)
_PRIVATE_KEY = re.compile(r"(-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----).*?(-----END|\Z)", re.DOTALL)


class Shown(NamedTuple):
    """What is to be seen of a value."""

    text: str
    remark: str = ""
    """What is said of it beside: its size, "empty", "deleted"."""

    def html(self, limit: int) -> str:
        """Both, escaped."""
        parts = (text(self.text, limit), dim(text(self.remark)) if self.remark else "")
        return " ".join(filter(None, parts))


def shown_entry(entry: Entry, limit: int = CELL_CHARS) -> Shown:
    """What is to be seen of an entry's value."""
    data = entry.value
    if entry.operation is Operation.DELETE:
        return Shown("", "deleted")
    if not data:
        return Shown("", "empty")
    if key_holds_secret(entry.key):
        return Shown(STARS)
    found = _decoded(data, limit)
    if found is None:
        return _in_hex(data)
    remark = size(data) if len(found) > limit else ""
    return Shown(visible(masked(found), limit), remark)


def shown_value(key: str, value: Any, limit: int = CELL_CHARS) -> Shown:
    """What is to be seen of a decoded value."""
    if value is not None and key_holds_secret(key):
        return Shown(STARS)
    if isinstance(value, bytes):
        return shown_entry(Entry(key, value), limit)
    whole = value if isinstance(value, str) else _represented(value, limit + 1)
    return Shown(visible(masked(whole[: limit + 1]), limit))


def key_holds_secret(key: str) -> bool:
    """Whether a key says in one of its parts that it holds a secret."""
    return any(map(holds_secret, key.split("/")))


def masked(value: str) -> str:
    """A text with stars for its secrets.

    Passwords in URLs, fields that are called so, headers that authorize, private keys in PEM.
    """
    found = _FIELD.sub(_without_secret, hide(value))
    found = _AUTHORIZATION.sub(rf"\1{STARS}", found)
    return _PRIVATE_KEY.sub(rf"\1 {STARS} \2", found)


def size(data: bytes) -> str:
    """How many bytes there are, in words."""
    return f"{len(data):,} {'byte' if len(data) == 1 else 'bytes'}"


def _represented(value: Any, limit: int) -> str:
    """Its repr, of which `limit` characters are made if it is a large dict or list."""
    try:
        return "".join(_begin(_pieces(value, limit), limit))
    except Exception:  # noqa: BLE001
        # The class is the user's, and a display must not raise.
        return f"<{type(value).__name__}>"


def _begin(pieces: Iterable[str], limit: int) -> Iterator[str]:
    length = 0
    for piece in pieces:
        yield piece
        length += len(piece)
        if length >= limit:
            return


def _pieces(value: Any, limit: int) -> Iterator[str]:
    # What JSON has; of other classes, `repr` is theirs.
    if type(value) is str:
        yield repr(value[:limit])
    elif type(value) is dict:
        items = ((_pieces(key, limit), (": ",), _pieces(it, limit)) for key, it in value.items())
        yield from _joined("{", map(chain.from_iterable, items), "}")
    elif type(value) is list:
        yield from _joined("[", (_pieces(item, limit) for item in value), "]")
    else:
        yield repr(value)


def _joined(begin: str, items: Iterable[Iterable[str]], end: str) -> Iterator[str]:
    yield begin
    for number, item in enumerate(items):
        if number:
            yield ", "
        yield from item
    yield end


def _without_secret(match: re.Match[str]) -> str:
    quote, name, sign, value = match.groups()
    if not holds_secret(name) or value in ("null", "true", "false"):
        return match.group()
    return f"{quote}{name}{quote}{sign}{STARS}"


def _in_hex(data: bytes) -> Shown:
    cut = "…" if len(data) > HEX_BYTES else ""
    return Shown(data[:HEX_BYTES].hex(" ") + cut, size(data))


def _decoded(data: bytes, limit: int) -> str | None:
    """More than `limit` characters if there are as many; None if it is no text in UTF-8."""
    head = data[: 4 * (limit + 1)]
    try:
        found = getincrementaldecoder("utf-8")().decode(head, final=len(head) == len(data))
    except UnicodeDecodeError:
        return None
    return None if "\0" in found else found
