"""The errors of so many libraries, as ours."""

from __future__ import annotations

from datastream.errors import DatastreamError, Denied, InvalidKey, SourceUnavailable, shown

_Kinds = tuple[type[Exception], ...]
_WRITING: tuple[tuple[_Kinds, type[DatastreamError], str], ...] = (
    (
        (FileExistsError, IsADirectoryError, NotADirectoryError, FileNotFoundError),
        InvalidKey,
        "{key} is a directory or lies below a file, and cannot be written",
    ),
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
    return SourceUnavailable(text)
