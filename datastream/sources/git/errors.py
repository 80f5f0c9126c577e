"""The one place where the errors of dulwich and of the systems below it become ours."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dulwich.client import HTTPProxyUnauthorized, HTTPUnauthorized
from dulwich.errors import (
    ChecksumMismatch,
    FileFormatException,
    NotGitRepository,
    WrongObjectException,
)
from dulwich.file import FileLocked
from dulwich.repo import UnsupportedExtension, UnsupportedVersion

from datastream.errors import DatastreamError, Denied, SourceUnavailable, Unsupported

DAMAGE = (
    KeyError,
    ChecksumMismatch,
    FileFormatException,
    WrongObjectException,
    zlib.error,
    AssertionError,
    EOFError,
    ValueError,
    IndexError,
    StopIteration,
    struct.error,
)
"""What reading a repository raises that lacks objects or holds broken ones."""

_REFUSALS = ("status 403", "permission denied", "access denied", "authentication failed")
_MISSING = ("does not appear to be a git repository", "repository not found", "not exported")


class Damaged(SourceUnavailable):
    """Objects are missing or broken."""


def translated(where: str, error: Exception) -> Exception:
    """What reading or writing a repository on disk raised, as one of our errors."""
    if isinstance(error, DatastreamError):
        return error
    kind: type[DatastreamError] = SourceUnavailable
    text = ""
    if isinstance(error, FileLocked):
        text = (
            f"{where}: another git program holds {_text(error.lockfilename)}; wait for it, or "
            "remove that file if no git program runs"
        )
    elif isinstance(error, DAMAGE):
        kind = Damaged
        text = f"{where}: an object is missing or broken ({_words(error)}); see what git fsck says"
    elif isinstance(error, NotGitRepository):
        text = f"{where} stopped being a git repository: {error}"
    elif isinstance(error, UnsupportedExtension | UnsupportedVersion):
        kind, text = Unsupported, f"{where} needs a newer git library: {error!r}"
    elif isinstance(error, OSError):
        text = f"{where}: {error}"
    return kind(text) if text else error


@contextmanager
def local_errors(where: str) -> Iterator[None]:
    """Translate where no store does it: in constructors, and inside other calls."""
    try:
        yield
    except Exception as error:
        ours = translated(where, error)
        if ours is error:
            raise
        raise ours from error


def no_repository(where: str, why: str = "", *, was_there: bool) -> DatastreamError:
    """Nothing is there: the URL is wrong, or what was there is away and may come back."""
    if was_there:
        return SourceUnavailable(f"{where}: the repository is not there any more{why}")
    return DatastreamError(f"{where}: no repository there{why}; check the URL")


@contextmanager
def remote_errors(where: str, hide: Callable[[str], str], *, was_there: bool) -> Iterator[None]:
    """Translate what talking to a remote raises.

    Args:
        hide: takes secrets out of a text.
        was_there: it has answered before.
    """
    try:
        yield
    except DatastreamError:
        raise
    except NotGitRepository as error:
        why = ", or not for these credentials"
        raise no_repository(where, why, was_there=was_there) from error
    except (UnsupportedExtension, UnsupportedVersion) as error:
        raise Unsupported(f"{where} needs a newer git library: {error!r}") from error
    except Exception as error:  # noqa: BLE001
        # Not chained: what the client says may quote headers or URLs. It raises anything at
        # answers that are no git.
        raise _explained(where, hide(_words(error)), error, was_there=was_there) from None


def _explained(where: str, words: str, error: Exception, *, was_there: bool) -> DatastreamError:
    low = words.lower()
    unauthorized = isinstance(error, HTTPUnauthorized | HTTPProxyUnauthorized)
    if unauthorized or any(sign in low for sign in _REFUSALS):
        return Denied(f"{where} refuses these credentials ({words}); check username and password")
    if any(sign in low for sign in _MISSING):
        return no_repository(where, f" ({words})", was_there=was_there)
    if isinstance(error, DAMAGE):
        return SourceUnavailable(f"{where} sent what cannot be read: {words}; see git fsck there")
    return SourceUnavailable(f"{where} cannot be reached: {words}")


def _words(error: BaseException) -> str:
    """What an error says, on one line; its name if it says nothing."""
    if isinstance(error, HTTPUnauthorized | HTTPProxyUnauthorized):
        return "unauthorized"
    lines = getattr(error, "stderr_lines", None)
    said = b"\n".join(lines).decode("utf-8", "replace") if lines else str(error)
    return " ".join(said.split()) or type(error).__name__


def _text(name: str | bytes) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name
