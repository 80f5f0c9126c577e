"""Tables of pandas and polars, made column by column."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from types import NoneType
from typing import TYPE_CHECKING, Any

from datastream import codecs
from datastream.entry import Entry, Operation, Revision
from datastream.errors import InvalidValue

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

Columns = dict[str, Any]

log = logging.getLogger("datastream")


def of_entries(entries: Sequence[Entry]) -> Columns:
    """Key, decoded value, type, time and revision of each entry; a DELETE has None as value."""
    # Field by field: zip would make as many iterators as there are entries.
    keys, values, types, times, revisions = (
        list(map(itemgetter(place), entries)) for place in range(5)
    )
    return {
        "key": keys,
        "value": _decoded(entries, values, types),
        "value_type": types,
        "updated_at": times,
        "revision": revisions,
    }


def of_values(values: Mapping[str, Any]) -> Columns:
    """Keys and decoded values."""
    return {"key": list(values), "value": list(values.values())}


def of_revisions(revisions: Iterable[Revision]) -> Columns:
    """The columns of entries but the key, and who, why, and where to go back to."""
    every = list(revisions)
    columns = of_entries([revision.entry for revision in every])
    del columns["key"]
    about = {
        "author": [revision.author for revision in every],
        "message": [revision.message for revision in every],
        "point": [revision.point for revision in every],
    }
    return columns | about


def to_pandas(columns: Columns, name: str, index: Sequence[Any] | None = None) -> pd.DataFrame:
    """A frame whose index is one of the columns, or what is given.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ModuleNotFoundError as error:
        raise _missing("pandas", error) from error
    data: dict[str, Any] = dict(columns)
    if "updated_at" in data:
        data["updated_at"] = pd.to_datetime(pd.Series(data["updated_at"], dtype=object), utc=True)
    label = pd.Index(data.pop(name) if index is None else index, name=name)
    return pd.DataFrame({each: _plain(column) for each, column in data.items()}, index=label)


def to_polars(columns: Columns) -> pl.DataFrame:
    """A frame; a column whose values are of several kinds holds Python objects.

    Raises:
        ImportError: polars is not installed.
    """
    try:
        import polars as pl
    except ModuleNotFoundError as error:
        raise _missing("polars", error) from error
    return pl.DataFrame([_series(name, column) for name, column in columns.items()])


def _plain(column: Any) -> Any:
    """Without an index of its own, which would be aligned with the frame's."""
    return getattr(column, "array", column)


def _series(name: str, column: Sequence[Any]) -> pl.Series:
    import polars as pl

    if name == "updated_at":
        return pl.Series(name, column, dtype=pl.Datetime("us", "UTC"))
    try:
        if {int, float} <= set(map(type, column)) <= {int, float, NoneType}:
            # Polars would take the first type for all, and turn what does not fit into null.
            column = [value if value is None else float(value) for value in column]
        series = pl.Series(name, column)
        # A struct has the fields of the first one, and loses those of the others.
        if not series.dtype.is_nested() or series.to_list() == list(column):
            return series
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        pass
    return pl.Series(name, column, dtype=pl.Object)


def _missing(library: str, error: ModuleNotFoundError) -> ImportError:
    if error.name != library:
        # It is there, and something that it needs is not.
        return ImportError(f"{library} cannot be imported: {error}")
    return ImportError(f'this needs {library}: pip install "datastream-kv[{library}]"')


def _decoded(entries: Sequence[Entry], values: list[bytes], types: list[str]) -> Sequence[Any]:
    if len(set(types)) == 1:
        decoded = codecs.decode_all(values, types[0])
        if decoded is not None:
            return decoded
    return list(map(value_of, entries))


def value_of(entry: Entry) -> Any:
    """The decoded value; the bytes of one that does not decode: it must not hide the others."""
    if entry.operation is Operation.DELETE:
        return None
    try:
        return entry.decode()
    except InvalidValue as error:
        log.warning("%s", error)
        return entry.value
