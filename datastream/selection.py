"""Which keys: exact ones, prefixes ending in ``/`` and glob patterns."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

from datastream.errors import InvalidKey, shown

MAX_KEY_BYTES = 16_384
"""Longest key in UTF-8; a backend may take less."""


class Selects(Protocol):
    """What a Source sees of a selection, be it one subscriber's or everybody's together."""

    @property
    def keys(self) -> frozenset[str]: ...
    @property
    def prefixes(self) -> frozenset[str]: ...
    @property
    def patterns(self) -> frozenset[str]: ...
    def matches(self, key: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class Selection:
    """Keys, prefixes and patterns, joined by "or"; none at all selects everything.

    ``"fx/"`` is a prefix because it ends in a slash, ``"fx/USD"`` is a key. In a pattern ``*``
    and ``?`` stay within one segment, ``**`` crosses slashes: ``fx/*`` is what lies directly in
    ``fx/``, ``**/name`` every ``name`` at any depth.
    """

    keys: frozenset[str] = frozenset()
    prefixes: frozenset[str] = frozenset()
    patterns: frozenset[str] = frozenset()
    _patterns: tuple[re.Pattern[str], ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def of(cls, *keys: str, match: str | Iterable[str] = ()) -> Selection:
        """The selection that `Store.watch` and `Store.snapshot` make of their arguments.

        Raises:
            InvalidKey: a key, prefix or pattern that no key can have or match.
        """
        patterns = (match,) if isinstance(match, str) else tuple(match)
        for text in (*keys, *patterns):
            check_text(text)
        if "/" in keys:
            raise InvalidKey('"/" selects nothing: no key starts with it; give no key for all keys')
        return cls(
            frozenset(key for key in keys if not key.endswith("/")),
            frozenset(key for key in keys if key.endswith("/")),
            frozenset(patterns),
            tuple(compile_pattern(pattern) for pattern in patterns),
        )

    @property
    def everything(self) -> bool:
        return not (self.keys or self.prefixes or self.patterns)

    def matches(self, key: str) -> bool:
        return (
            key in self.keys
            or any(key.startswith(prefix) for prefix in self.prefixes)
            or any(pattern.fullmatch(key) for pattern in self._patterns)
            or self.everything
        )


def check_key(key: str) -> None:
    """Refuse what can be no key on any backend.

    Raises:
        InvalidKey: empty, not a str, ends in "/", holds NUL or a lone surrogate, or is too long.
    """
    check_text(key)
    if key.endswith("/"):
        raise InvalidKey(f"{shown(key)} ends in '/', which makes it a prefix; drop the slash")


def check_text(text: str) -> None:
    """The part of `check_key` that holds for prefixes and patterns too."""
    if not isinstance(text, str):
        raise InvalidKey(f"a key is a str, not {type(text).__name__}; convert it first")
    if not text:
        raise InvalidKey("a key cannot be empty; give it at least one character")
    # ASCII is the common case, and isascii() is a flag test, so encoding is rarely paid for.
    if len(text) > MAX_KEY_BYTES or not text.isascii():
        _check_encoding(text)
    if "\0" in text:
        raise InvalidKey(f"{shown(text)} holds a NUL character; drop it")


def _check_encoding(text: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidKey(
            f"{shown(text)} holds a lone surrogate, which is no UTF-8; decode the name properly"
        ) from error
    if size > MAX_KEY_BYTES:
        raise InvalidKey(f"{shown(text)} has {size} bytes; a key has {MAX_KEY_BYTES} at most")


@lru_cache(maxsize=1024)
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The regular expression of one glob."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    return re.compile("".join(_GLOB.get(part, re.escape(part)) for part in parts), re.DOTALL)


def literal_prefix(pattern: str) -> str:
    """The start that every key matching `pattern` has, cut at the last slash."""
    literal = re.split(r"[*?]", pattern, maxsplit=1)[0]
    return literal[: literal.rfind("/") + 1]


_GLOB = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
