"""`History`: the revisions of a key, one by one or as a frame."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

from datastream.entry import Revision

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl


class History(Iterator[Revision]):
    """Every revision of a key, newest first, read from the backend as you go on."""

    def __init__(self, revisions: Generator[Revision, None, None]) -> None:
        self._revisions = revisions

    def __next__(self) -> Revision:
        return next(self._revisions)

    def close(self) -> None:
        """Read no further, and free what reading holds; so does letting go of it."""
        self._revisions.close()

    def to_pandas(self) -> pd.DataFrame:
        """What is left of it as a frame, whose index is ``updated_at``.

        Its columns are ``value`` (decoded; None where the key was removed), ``value_type``,
        ``revision``, ``author``, ``message`` and ``point``, which `Store.at` takes.

        Raises:
            ImportError: pandas is not installed: the extra ``pandas``.
        """
        from datastream.notebook import _frames

        return _frames.to_pandas(_frames.of_revisions(self), "updated_at")

    def to_polars(self) -> pl.DataFrame:
        """The same as a frame of polars.

        Raises:
            ImportError: polars is not installed: the extra ``polars``.
        """
        from datastream.notebook import _frames

        return _frames.to_polars(_frames.of_revisions(self))
