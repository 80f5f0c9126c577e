"""Live tables of stores and views."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from reactivex import Observable

from datastream._secrets import hide
from datastream.entry import Batch, ChangeBatch, Operation, Rejected
from datastream.errors import DatastreamError
from datastream.notebook import _html, _parts
from datastream.notebook._following import HasStatus, Subscriptions, picture_of
from datastream.notebook._live import EVERY, Following, Live
from datastream.notebook._rows import Page, Row, TableRows, cells

if TYPE_CHECKING:
    from datastream import Overlay
    from datastream.store import Store
    from datastream.view import View

MOST_REJECTED = 5
"""Values that did not validate, of which the reason is shown."""
COLUMNS = ("key", "value", "type", "age", "revision")
"""Of all tables; those that a page may sort by."""


class LiveTable(Live):
    """A table of keys and values that follows.

    Made by `Store.live`, `View.live` and `Binding.live`. It can be sorted, filtered and paged, and
    shows what changed just now, the status, and the lag: how long after it was written the last
    change arrived here.
    """

    script = "table.js"


class Tabled(Subscriptions):
    """Follows what fills a table."""

    columns: tuple[str, ...] = COLUMNS
    heads: Mapping[str, str] = {}
    """What stands above a column, where that is not its name."""

    def __init__(self, status: HasStatus) -> None:
        super().__init__(status)
        self.rows = TableRows()

    def start(self, changed: Callable[[], object], ended: Callable[[], object]) -> None:
        self.rows.clear()
        self._follow(changed, ended)
        self.follow_status(changed, ended)

    def picture(self, ask: dict[str, Any]) -> dict[str, Any]:
        page = Page.of(ask)
        rows, matching, count = self.rows.page(page)
        return {
            "columns": [
                [name, self.heads.get(name, name), name in COLUMNS] for name in self.columns
            ],
            "rows": list(map(self._row, rows)),
            "matching": matching,
            "count": count,
            "page": {"sort": page.sort, "down": page.down, "first": page.first},
            **self.standing.picture(),
            **_refused(tuple(self._rejected())),
        }

    def stop(self) -> None:
        super().stop()
        # What nobody looks at need not be kept.
        self.rows.clear()

    @abstractmethod
    def _follow(self, changed: Callable[[], object], ended: Callable[[], object]) -> None:
        """Begin to fill the rows."""

    def _column(self, name: str) -> list[Any]:
        """As a page gets it: name, title, and whether the page may sort by it."""
        return [name, self.heads.get(name, name), name in COLUMNS]

    def _row(self, row: Row) -> list[Any]:
        """As a page gets it: the key, when it changed and was written, and a text by column."""
        texts = self._cells(row)
        return [texts["key"], row.changed, row.time, [texts[name] for name in self.columns]]

    def _cells(self, row: Row) -> dict[str, str]:
        return cells(row)

    def _rejected(self) -> Iterable[Rejected]:
        """What did not validate, where something validates."""
        return ()


class TabledStore(Tabled):
    """Follows entries of a store."""

    def __init__(self, store: Store, watch: Callable[..., Observable[Batch]]) -> None:
        super().__init__(store.status)
        self._watch = watch

    def _follow(self, changed: Callable[[], object], ended: Callable[[], object]) -> None:
        batches = self._watch(conflate="always", every=EVERY)
        self.follow(batches, partial(self._take, changed), ended)

    def _take(self, changed: Callable[[], object], batch: Batch) -> None:
        self.rows.take(batch.entries, initial=batch.initial)
        if not batch.initial:
            self.standing.arrived(batch.entries)
        changed()


class TabledOverlay(TabledStore):
    """Follows an overlay, and says of each key which layer shows it and which ones it hides."""

    columns = (*COLUMNS, "layer")

    def __init__(self, store: Overlay, watch: Callable[..., Observable[Batch]]) -> None:
        super().__init__(store, watch)
        self._overlay = store
        self._known: dict[str, tuple[str, str]] = {}

    def _cells(self, row: Row) -> dict[str, str]:
        return {**super()._cells(row), "layer": self._layers(row)}

    def _layers(self, row: Row) -> str:
        """Asked of the backends only of rows that are seen, and again when they changed."""
        revision = "" if row.entry is None else row.entry.revision
        known = self._known.get(row.key)
        if known is None or known[0] != revision:
            known = self._known[row.key] = (revision, self._asked(row.key))
        return known[1]

    def _asked(self, key: str) -> str:
        try:
            held = self._overlay.explain(key)
        except DatastreamError as error:
            return _parts.visible(f"? {error}")
        return _parts.visible(_parts.layered(*(one.layer for one in held)))


class TabledView(Tabled):
    """Follows the decoded values of a view."""

    def __init__(self, view: View[Any]) -> None:
        super().__init__(view.status)
        self._view = view
        self._filling = threading.RLock()

    def _follow(self, changed: Callable[[], object], ended: Callable[[], object]) -> None:
        # First the changes, then what is there: what comes between is applied to it.
        with self._filling:
            self.follow(self._view.change_batches, partial(self._take, changed), ended)
            with suppress(DatastreamError):
                # Without a state yet, the first batch brings all.
                for key, value in self._view.snapshot().items():
                    self.rows.put(key, value, None, initial=True)

    def _rejected(self) -> Iterable[Rejected]:
        return self._view.rejected.values()

    def _take(self, changed: Callable[[], object], batch: ChangeBatch) -> None:
        with self._filling:
            self._apply(batch)
        if not batch.initial:
            self.standing.arrived(change.entry for change in batch.changes)
        changed()

    def _apply(self, batch: ChangeBatch) -> None:
        for change in batch.changes:
            if change.entry.operation is Operation.DELETE:
                self.rows.remove(change.key)
            else:
                self.rows.put(change.key, change.new, change.entry, initial=batch.initial)


def _refused(rejected: Sequence[Rejected]) -> dict[str, Any]:
    """Key and reason of the first few, and how many there are."""
    words = [
        [_parts.visible(one.key), _parts.visible(hide(one.reason), _parts.CARD_CHARS)]
        for one in rejected[:MOST_REJECTED]
    ]
    refused: dict[str, Any] = {"rejected": words, "refusals": len(rejected)}
    # The status says the same, in one line.
    return refused | {"words": ""} if rejected else refused


def of_store(store: Store, name: str, watch: Callable[..., Observable[Batch]]) -> LiveTable:
    """A table of what `watch` follows."""

    def picture() -> str:
        return picture_of(store, name, watch)

    def following() -> Following:
        if hasattr(store, "explain"):
            return TabledOverlay(cast("Overlay", store), watch)
        return TabledStore(store, watch)

    return LiveTable(name, picture, following)


def of_view(view: View[Any]) -> LiveTable:
    """A table of the values of a view."""
    return LiveTable(view.name, lambda: _html.view_table(view), lambda: TabledView(view))
