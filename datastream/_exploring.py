"""What a store gives people who look at it: live views, data frames, recordings."""

# `self` is a Store: what each of them calls is there.
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from reactivex import Observable

from datastream._watch import reaper
from datastream._watch.buffer import Conflate
from datastream._watches import check_seconds, described
from datastream.entry import Batch
from datastream.selection import Selection

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

    from datastream.notebook import LivePlot, LiveTable, Recording, Span, Timeline
    from datastream.notebook._recording import Rows
    from datastream.store import Store


class StoreExploring:
    """The part of a `Store` that notebooks use."""

    def to_pandas(  # type: ignore[misc]
        self: Store,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
    ) -> pd.DataFrame:
        """What the selected keys hold now, as a frame.

        Its index is ``key``, its columns ``value`` (decoded; the bytes of what does not decode),
        ``value_type``, ``updated_at`` and ``revision``.

        Args:
            keys, match, exclude: as for `snapshot`.

        Raises:
            ImportError: pandas is not installed: the extra ``pandas``.
        """
        from datastream.notebook import _frames

        entries = self.snapshot_batch(*keys, match=match, exclude=exclude).entries
        return _frames.to_pandas(_frames.of_entries(entries), "key")

    def to_polars(  # type: ignore[misc]
        self: Store,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
    ) -> pl.DataFrame:
        """The same as a frame of polars, whose first column is ``key``.

        Args:
            keys, match, exclude: as for `snapshot`.

        Raises:
            ImportError: polars is not installed: the extra ``polars``.
        """
        from datastream.notebook import _frames

        entries = self.snapshot_batch(*keys, match=match, exclude=exclude).entries
        return _frames.to_polars(_frames.of_entries(entries))

    def live(  # type: ignore[misc]
        self: Store,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
    ) -> LiveTable:
        """A table of the selected keys for a notebook, which follows while it is on a page.

        Of an overlay, it shows which layer each value comes from, and which ones that hides.

        Args:
            keys, match, exclude: as for `watch`.

        Raises:
            ImportError: anywidget is not installed: the extra ``notebook``.
        """
        from datastream.notebook import _table, _widget

        _widget.check()
        selection = Selection.of(*keys, match=match, exclude=exclude)
        watch = partial(self.watch_batches, *keys, match=match, exclude=exclude)
        return _table.of_store(self, f"{self.name}, {described(selection, 'live')}", watch)

    def live_plot(  # type: ignore[misc]
        self: Store,
        *keys: str,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        window: Span = "5m",
    ) -> LivePlot:
        """Lines of the numbers that the selected keys hold, for a notebook.

        Args:
            keys, match, exclude: as for `watch`.
            window: how much of the past it shows, such as ``"5m"``.

        Raises:
            ImportError: anywidget is not installed: the extra ``notebook``.
        """
        from datastream.notebook import _plot, _span, _widget

        _widget.check()
        selection = Selection.of(*keys, match=match, exclude=exclude)
        watch = partial(self.watch_batches, *keys, match=match, exclude=exclude)
        name = f"{self.name}, {described(selection, 'live_plot')}"
        return _plot.of_store(self, name, watch, _span.seconds(window))

    def timeline(self: Store, key: str) -> Timeline:  # type: ignore[misc]
        """The revisions of a key for a notebook: what each changed, who made it, and why.

        Raises:
            Unsupported: the backend keeps none.
            ImportError: anywidget is not installed: the extra ``notebook``.
        """
        from datastream.notebook import _timeline, _widget

        _widget.check()
        return _timeline.of_key(self, key)

    def window(  # type: ignore[misc]
        self: Store,
        keys: str | Iterable[str] = (),
        span: Span = "5m",
        *,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        every: float = 0.1,
    ) -> Recording:
        """Record what the selected keys hold, and keep the last `span` of it; see `Recording`.

        It follows in the background: ``window.to_pandas()`` reads memory.

        Args:
            keys: one key or prefix, or several; with neither keys nor match, everything.
            span: such as ``"5m"``, ``"1h"``, or a number of seconds.
            match, exclude: as for `watch`.
            every: seconds between two rows, at least; 0 records each batch.
        """
        from datastream.notebook import _span
        from datastream.notebook._recording import Rows

        chosen = (keys,) if isinstance(keys, str) else tuple(keys)
        kept = timedelta(seconds=_span.seconds(span))
        batches = self.watch_batches(
            *chosen, match=match, exclude=exclude, conflate=_conflate(every), every=every
        )
        what = described(Selection.of(*chosen, match=match, exclude=exclude), "window")
        return _recording(f"{self.name}, {what}", batches, Rows(kept))

    def record(  # type: ignore[misc]
        self: Store,
        *keys: str,
        seconds: float,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        every: float = 0.0,
    ) -> Recording:
        """Record for some seconds what the selected keys hold, beginning with what they hold now.

        Blocks that long; ends early when the store is closed. Ctrl-C ends it at once.

        Args:
            keys, match, exclude: as for `watch`.
            seconds: how long.
            every: seconds between two rows, at least; 0 records each batch.
        """
        from datastream.notebook._recording import Rows

        check_seconds(seconds, "seconds")
        batches = self.watch_batches(
            *keys, match=match, exclude=exclude, conflate=_conflate(every), every=every
        )
        what = described(Selection.of(*keys, match=match, exclude=exclude), "record")
        over = threading.Event()
        with _recording(f"{self.name}, {what}", batches, Rows(None), over.set) as recording:
            over.wait(seconds)
            return recording

    async def arecord(  # type: ignore[misc]
        self: Store,
        *keys: str,
        seconds: float,
        match: str | Iterable[str] = (),
        exclude: str | Iterable[str] = (),
        every: float = 0.0,
    ) -> Recording:
        """`record`, without holding up the event loop."""
        from datastream.notebook import Recording
        from datastream.notebook._recording import Rows

        check_seconds(seconds, "seconds")
        rows, pace = Rows(None), _conflate(every)
        batches = self.awatch_batches(
            *keys, match=match, exclude=exclude, conflate=pace, every=every
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), batches:
                async for batch in batches:
                    rows.add(datetime.now(UTC), batch)
        what = described(Selection.of(*keys, match=match, exclude=exclude), "record")
        return Recording(f"{self.name}, {what}", rows)


def _conflate(every: float) -> Conflate:
    return "always" if every else "slow"


def _recording(
    what: str,
    batches: Observable[Batch],
    rows: Rows,
    ended: Callable[[], object] = lambda: None,
) -> Recording:
    """A recording of `batches`, which ends when it is closed or dropped.

    Args:
        ended: called when the watch ends by itself.
    """
    from datastream.notebook import Recording

    recording = Recording(what, rows)

    def end(error: Exception | None = None) -> None:
        ended()

    # What is called refers to the rows alone, so that the recording can be collected.
    subscription = batches.subscribe(partial(_add, rows), end, end)
    recording.follow(subscription)
    dropped = weakref.finalize(recording, reaper.later, subscription.dispose)
    dropped.atexit = False
    return recording


def _add(rows: Rows, batch: Batch) -> None:
    rows.add(datetime.now(UTC), batch)
