"""The operating system's errors, as ours."""

from __future__ import annotations

import errno

from datastream.errors import (
    DatastreamError,
    Denied,
    InvalidKey,
    InvalidValue,
    ReadOnly,
    SourceUnavailable,
    shown,
)

_FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = {
    errno.EBUSY: "what is mounted there cannot be replaced",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "see who may read and write it"),
}
_NO_KEY = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EILSEQ, errno.EINVAL)


def explain(error: OSError, where: str, key: str | None) -> DatastreamError:
    """What went wrong at `where`, while `key` was written if one is given."""
    what = error.strerror or str(error)
    if key is not None and error.errno in _NO_KEY:
        return InvalidKey(f"{where} cannot hold {shown(key)}: {what}; nothing was written")
    if error.errno == errno.EROFS:
        return ReadOnly(f"{where}: {what}; nothing was written")
    # Of two names, the second one is that of what was to be replaced.
    name = error.filename2 or error.filename
    if error.errno in _DENIED:
        return Denied(f"{where}: {what} ({name}); {_DENIED[error.errno]}")
    if error.errno == errno.EFBIG:
        return InvalidValue(f"{where} cannot hold so large a value: {what}; nothing was written")
    if error.errno in _FULL:
        return SourceUnavailable(f"{where}: {what}; nothing was written: make room and retry")
    return SourceUnavailable(f"{where}: {what}")
