"""The errors of the filesystems' libraries, as ours."""

from __future__ import annotations

import lzma
import struct
import tarfile
import zipfile
import zlib

from datastream.errors import DatastreamError, Denied, InvalidKey, SourceUnavailable, shown

_OF_ONE_MEMBER = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, RuntimeError),
    *(TypeError, ValueError, lzma.LZMAError, struct.error, tarfile.TarError, zipfile.BadZipFile),
    zlib.error,
)
"""What the readers of archives raise for a member that is broken, sealed, or of a kind they do not
know."""

_Kinds = tuple[type[Exception], ...]
FORBIDDEN = 403
"""How web servers, and object stores, refuse one file."""

_WRITING: tuple[tuple[_Kinds, type[DatastreamError], str], ...] = (
    (
        (FileExistsError, IsADirectoryError, NotADirectoryError, FileNotFoundError),
        InvalidKey,
        "{key} is a directory or lies below a file, and cannot be written",
    ),
    ((RecursionError,), InvalidKey, "{key} has too many parts"),
    ((PermissionError,), Denied, "see who may read and write there"),
)
_OPENING: tuple[tuple[_Kinds, type[DatastreamError], str], ...] = (
    (
        (FileNotFoundError,),
        DatastreamError,
        "no such place: check the URL, or make it: create=True",
    ),
    ((NotImplementedError,), DatastreamError, "this filesystem cannot be listed"),
    ((PermissionError,), Denied, "check the credentials"),
    ((TypeError, ValueError), DatastreamError, "check the options of this filesystem"),
)


def why_unreadable(error: Exception, *, in_archive: bool) -> str:
    """Why one file, or directory, cannot be read while others can; "" if all may be concerned."""
    if in_archive:
        # The readers' own OSErrors have no number, those of what the archive lies in have one.
        is_of_one = isinstance(error, _OF_ONE_MEMBER) or (
            type(error) is OSError and error.errno is None
        )
    else:
        is_of_one = isinstance(error, PermissionError) or FORBIDDEN in (
            getattr(error, name, None) for name in ("status", "status_code", "code")
        )
    return _reason(error) if is_of_one else ""


def _reason(error: Exception) -> str:
    if isinstance(error, AttributeError):
        # The readers open what is no regular file as None, and go on with that.
        return "it is no regular file, or damaged"
    # The text of a KeyError is a repr.
    what = error.args[0] if isinstance(error, KeyError) and error.args else error
    return f"{what}" or type(error).__name__


def explain(
    error: Exception, where: str, *, opening: bool = False, key: str | None = None
) -> DatastreamError:
    """What went wrong, while a place was opened or, with `key`, while that was written."""
    if isinstance(error, DatastreamError):
        return error
    text = f"{where}: {error or type(error).__name__}"
    for kinds, answer, advice in _WRITING if key else _OPENING if opening else ():
        if isinstance(error, kinds):
            return answer(f"{text}; {advice.format(key=shown(key or ''))}")
    return SourceUnavailable(f"{text}; check the URL, and that it is there" if opening else text)
