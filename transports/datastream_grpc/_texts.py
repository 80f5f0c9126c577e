"""Texts for clients: what failed, without what tells of the server's machine.

Errors of backends name files, hosts and statements, which help whoever runs the server and are no
business of its clients. They go to the server's log; a client is sent the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from datastream import KeyNotFound, RevisionConflict
from datastream_grpc._limits import Forbidden, LimitReached

LEFT_OUT = "…"

_SQL = re.compile(
    r"\b(?:SELECT|INSERT INTO|UPDATE|DELETE FROM|CREATE|ALTER|DROP|PRAGMA|WITH|LISTEN)\s\w.*"
    r"|\bLINE \d+:.*",
    re.DOTALL,
)
_WORD = r"[\w.%@+~-]"
_PLACES = (
    # URLs, and files by their path.
    re.compile(r"\b[a-z][a-z0-9+.-]*:(?:/|(?=\w*[/.]))[^\s'\",;)]*", re.IGNORECASE),
    re.compile(rf"(?<![\w.…])(?:~|\.{{1,2}}|[A-Za-z]:)?[/\\]{_WORD}[^\s'\",;:)]*"),
    # Hosts: addresses, names with dots, anything with a port.
    re.compile(r"(?<![\w.])\[?(?:[0-9a-f]{0,4}:){2,}[0-9a-f.:]*\]?(?::\d+)?", re.IGNORECASE),
    re.compile(rf"(?<![\w.@]){_WORD}*[A-Za-z0-9_-]\.[A-Za-z]{{2,}}(?::\d+)?(?![\w.])"),
    re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"),
    re.compile(r"(?<![\w.])[A-Za-z][\w-]*:\d{2,5}\b"),
    re.compile(r"\bport \d+"),
    # What PostgreSQL quotes: users, databases, tables, columns.
    re.compile(r'"[^"]*"'),
)
_KEYS = re.compile(r"'(?:[^'\\]|\\.)*'")


class Texts:
    """Takes out of texts what no client needs.

    Args:
        name: of the store, which names its backend.
        hides_keys: clients may not know all keys.
    """

    def __init__(self, name: str, *, hides_keys: bool) -> None:
        self._name = name
        self._patterns = (*_PLACES, _KEYS) if hides_keys else _PLACES

    def of(self, error: Exception, text: str, sent: Callable[[], bytes]) -> str:
        """`text` of an error, for who has sent what led to it."""
        if isinstance(error, KeyNotFound | RevisionConflict | Forbidden | LimitReached):
            # No backend has written these: they tell of keys and revisions.
            return text.replace(self._name, "the store") if self._name else text
        return self.public(text, sent)

    def public(self, text: str, sent: Callable[[], bytes] = bytes) -> str:
        """`text` without server paths, hosts and statements.

        Args:
            sent: gives what the client has sent, which may stand.
        """
        if self._name:
            text = text.replace(self._name, "the store")
        text = _SQL.sub(LEFT_OUT, text)
        for pattern in self._patterns:
            if pattern.search(text):
                text = pattern.sub(_leaving(sent()), text)
        return text


def _leaving(sent: bytes) -> Callable[[re.Match[str]], str]:
    """What to write in place of a match: the match itself if the client has sent it."""

    def written(match: re.Match[str]) -> str:
        found = match[0]
        inner = found.strip("'\"")
        return found if inner and inner.encode("utf-8", "replace") in sent else LEFT_OUT

    return written
