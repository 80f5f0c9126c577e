"""Who makes commits: what git takes for author and committer, and refuses."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import NamedTuple

from dulwich.config import Config, StackedConfig
from dulwich.repo import get_user_identity

from datastream.errors import DatastreamError, ReadOnly
from datastream.sources.git.repository import BadConfig

OpenConfig = Callable[[], Config]
"""Reads what git is configured with."""

# git cuts these off both ends of a name.
_CRUD = "".join(map(chr, range(33))) + ".,:;<>\"\\'"
_FORBIDDEN = re.compile(r"[\0\n<>\ud800-\udfff]")
_USER, _USER_ONLY = b"user", b"useConfigOnly"


class Identity(NamedTuple):
    """Who commits are by: ``Name <address>``."""

    author: bytes
    committer: bytes


class Identities:
    """Tells who commits are by; asks git once it is needed, so that reading needs no answer.

    Args:
        config: reads git's configuration.
        name, email: "" takes what git does: its environment, and then its configuration.

    Raises:
        DatastreamError: name or email are nothing that a commit can hold.
    """

    def __init__(self, config: OpenConfig, name: str, email: str) -> None:
        if _FORBIDDEN.search(name + email) or (name and not name.strip()):
            raise DatastreamError("author and email are one line each, in UTF-8, without < and >")
        self._config = config
        self._name, self._email = name, email
        self._found: Identity | None = None

    def get(self) -> Identity:
        """Who commits are by.

        Raises:
            ReadOnly: what is configured cannot be used; the next call looks again.
        """
        if self._found is None:
            try:
                config = self._config()
            except BadConfig as error:
                raise ReadOnly(str(error)) from error
            self._found = Identity(self._of(config, "author"), self._of(config, "committer"))
        return self._found

    def _of(self, config: Config, role: str) -> bytes:
        name = self._name or _cleaned(_configured(config, role, "name"))
        email = self._email or _cleaned(_configured(config, role, "email"))
        if not name:
            raise ReadOnly(
                f"git has no name for the {role} of a commit that it could use; "
                "git config user.name, or open the store with author="
            )
        return f"{name} <{email}>".encode()


def _configured(config: Config, role: str, what: str) -> str:
    found = os.environ.get(f"GIT_{role}_{what}".upper())
    if found is not None:
        return found
    for section in (role.encode(), _USER):
        try:
            return config.get(section, what.encode()).decode("utf-8", "replace")
        except KeyError:
            pass
    if what == "email" and os.environ.get("EMAIL"):
        return os.environ["EMAIL"]
    if config.get_boolean(_USER, _USER_ONLY, False):
        raise ReadOnly(
            f"git has no {what} for the {role} of a commit, and user.useConfigOnly is set; "
            f"git config user.{what}, or open the store with author= and email="
        )
    name, _, address = (
        get_user_identity(StackedConfig([])).decode("utf-8", "replace").partition(" <")
    )
    return name if what == "name" else address


def _cleaned(text: str) -> str:
    """As git writes it: without what would break a commit."""
    return _FORBIDDEN.sub("", text.strip(_CRUD))
