"""Where a remote is, and what opens it."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote, urlsplit

from datastream.errors import DatastreamError

TOKEN_USER = "x-access-token"  # noqa: S105
"""User name beside a token, where none is given: GitHub's, and others take any."""


class Credentials(NamedTuple):
    """What opens a private repository; kept in memory only."""

    username: str = ""
    password: str = ""

    def hide(self, text: str) -> str:
        """`text` without them."""
        for secret in (self.password, quote(self.password, safe="")):
            text = text.replace(secret, "***") if secret else text
        return text

    def __repr__(self) -> str:
        return "Credentials(***)"


class Address(NamedTuple):
    """Where a remote is, without credentials."""

    url: SplitResult
    credentials: Credentials

    @property
    def shown(self) -> str:
        return self.url.geturl()

    @classmethod
    def of(cls, url: str, username: str, password: str, token: str) -> Address:
        """Take a URL apart, with or without ``git+``.

        Raises:
            DatastreamError: it names no repository, or credentials are given twice.
        """
        try:
            parts = urlsplit(url.removeprefix("git+"))
            _ = parts.port
        except ValueError as error:
            raise DatastreamError(f"the remote's URL is malformed: {error}") from None
        ssh = parts.scheme == "ssh"
        local = parts.scheme == "file"
        known = local or parts.scheme in ("http", "https", "ssh")
        if not known or local == bool(parts.hostname) or not parts.path.strip("/"):
            raise DatastreamError(
                "a remote is git+https://HOST/PATH, git+http, git+ssh or git+file:///PATH"
            )
        user, _, secret = parts.netloc.rpartition("@")[0].partition(":")
        if token and password:
            raise DatastreamError(f"{parts.hostname}: give a token or a password, not both")
        credentials = Credentials(username or unquote(user), token or password or unquote(secret))
        if credentials.password and not credentials.username:
            credentials = credentials._replace(username=TOKEN_USER)
        host = parts.netloc.rpartition("@")[2]
        # To SSH the user is part of the place: git@host.
        netloc = f"{credentials.username}@{host}" if ssh and credentials.username else host
        return cls(parts._replace(netloc=netloc, query="", fragment=""), credentials)
