"""Keys as NATS subjects and back: every key has one subject, every subject one key.

A subject is made of tokens between dots, as a key is of segments between slashes. So ``/`` becomes
``.``, and prefixes stay prefixes; the other way round a ``.`` of the key becomes ``/``, which NATS
allows in a token. Letters, digits, ``-`` and ``_`` stay. All else is escaped by its code point:
``=20`` is a space, ``=u00E9`` an é, ``=U01F511`` a key; ``=00`` is a segment with nothing in it. An
``=`` stays too, unless an escape seems to follow: then it is written ``=3D``.
"""

from __future__ import annotations

import re

_SAFE = re.compile(r"[-_=./a-zA-Z0-9]*")
_SWAP = str.maketrans("./", "/.")
_EMPTY = "=00"
_CODE = r"([0-9A-F]{2}|u[0-9A-F]{4}|U[0-9A-F]{6})"
# What an escape may follow: as many "3D" as there were signs too many.
_ESCAPE = re.compile(rf"=((?:3D)*){_CODE}")
_EMPTIES = re.compile(r"=(3D)*00")
_KEPT = frozenset("-_=./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_SURROGATES = range(0xD800, 0xE000)


def to_subject(key: str) -> str:
    """The subject of a key, without what the subjects of its bucket begin with."""
    if "=" not in key and "//" not in key and key[:1] != "/" and _SAFE.fullmatch(key):
        return key.translate(_SWAP)
    *folders, name = key.split("/")
    return ".".join([*map(_folder, folders), _token(name)])


def is_key(subject: str) -> bool:
    """Whether a subject is made of what NATS's own tools allow in a key.

    Others are nobody's: each key has one subject already, of those.
    """
    return _SAFE.fullmatch(subject) is not None


def to_key(subject: str) -> str:
    """The key of a subject."""
    if "=" not in subject:
        return subject.translate(_SWAP)
    *folders, name = subject.split(".")
    return "/".join([*map(_folder_name, folders), _name(name)])


def prefix_to_subject(prefix: str) -> str:
    """The subjects of all keys below a prefix, which ends in a slash."""
    return ".".join([*map(_folder, prefix.split("/")[:-1]), ">"])


def _folder(segment: str) -> str:
    """A segment that others follow; it may be empty, which a token may not."""
    if not segment:
        return _EMPTY
    if _EMPTIES.fullmatch(segment):
        return f"=3D{segment[1:]}"
    return _token(segment)


def _folder_name(token: str) -> str:
    if token == _EMPTY:
        return ""
    if _EMPTIES.fullmatch(token):
        return f"={token[3:]}"
    return _name(token)


def _token(segment: str) -> str:
    if "=" in segment:
        segment = _ESCAPE.sub(_guarded, segment)
    if not _SAFE.fullmatch(segment):
        segment = "".join(c if c in _KEPT else _escaped(c) for c in segment)
    return segment.replace(".", "/")


def _name(token: str) -> str:
    name = token.replace("/", ".")
    return _ESCAPE.sub(_unguarded, name) if "=" in name else name


def _escaped(char: str) -> str:
    code = ord(char)
    if code < 0x80:
        return f"={code:02X}"
    return f"=u{code:04X}" if code < 0x10000 else f"=U{code:06X}"


def _guarded(found: re.Match[str]) -> str:
    return found[0] if _char(found[2]) is None else f"=3D{found[0][1:]}"


def _unguarded(found: re.Match[str]) -> str:
    char = _char(found[2])
    if char is None:
        return found[0]
    return f"={found[0][3:]}" if found[1] else char


def _char(code: str) -> str | None:
    """The character that an escape stands for; None if none is written so."""
    number = int(code.lstrip("uU"), 16)
    if number > 0x10FFFF or number in _SURROGATES or number == 0:
        return None
    char = chr(number)
    return char if char not in _KEPT and _escaped(char) == f"={code}" else None
