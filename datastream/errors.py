"""What can go wrong, as one tree.

::

    DatastreamError
    ├── KeyNotFound        (also KeyError)    the key holds nothing
    ├── InvalidKey         (also ValueError)  no store can hold this key, or this one cannot
    ├── InvalidValue       (also ValueError)  the value does not fit its type, or is too large
    ├── RevisionConflict                      compare-and-set lost: the key moved on
    ├── ReadOnly                              this store cannot be written
    ├── Unsupported                           this backend cannot do that
    ├── SourceUnavailable                     passing trouble: retried below, worth retrying above
    ├── StoreClosed                           the store was closed
    └── Denied                                the backend refuses these credentials
        └── Unreadable                        or just this key, while all others can be read

Every text says what failed, on which key or place and what to do next. No error shows a secret or a
control character: `DatastreamError` takes them out, also of what a library has written.
"""

from __future__ import annotations

from datastream._secrets import hide, presentable, printable

__all__ = [
    "SHOWN_CHARS",
    "DatastreamError",
    "Denied",
    "InvalidKey",
    "InvalidValue",
    "KeyNotFound",
    "ReadOnly",
    "RevisionConflict",
    "SourceUnavailable",
    "StoreClosed",
    "Unsupported",
    "presentable",
    "printable",
    "shown",
]

SHOWN_CHARS = 60
"""What an error text shows of a key."""


class DatastreamError(Exception):
    """Base of every error this library raises on purpose."""

    is_presentable = True
    """Its text shows no secret, so that nobody has to look again."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(presentable(a) if isinstance(a, str) else a for a in args))


class KeyNotFound(DatastreamError, KeyError):
    """The key holds no value."""

    # KeyError shows the repr of its argument, which would put quotes around the whole sentence.
    __str__ = Exception.__str__


class InvalidKey(DatastreamError, ValueError):
    """The key, prefix or pattern is malformed, or the backend cannot hold it."""


class InvalidValue(DatastreamError, ValueError):
    """The value does not fit its value_type, or is larger than the backend takes."""


class RevisionConflict(DatastreamError):
    """``expect`` named another revision than the key has; nothing was written."""


class ReadOnly(DatastreamError):
    """The store was opened read-only, or its backend can only be read."""


class Unsupported(DatastreamError):
    """The backend has no way to do what was asked."""


class SourceUnavailable(DatastreamError):
    """The backend cannot be reached just now; the same call may succeed later."""


class StoreClosed(DatastreamError):
    """The store was closed; open another."""


class Denied(DatastreamError):
    """The backend refuses these credentials or this operation."""


class Unreadable(Denied):
    """This one key holds what cannot be read: an archived object, an encrypted file."""


def shown(text: str) -> str:
    """A key or other foreign text as error texts show it: quoted, and not longer than a line."""
    # Hidden first: half a secret would not be recognised.
    text = hide(text)
    return repr(text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…")
