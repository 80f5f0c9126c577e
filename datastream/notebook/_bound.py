"""Live tables of bindings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from datastream.entry import Entry, Rejected
from datastream.errors import DatastreamError
from datastream.notebook import _html
from datastream.notebook._parts import layered, visible
from datastream.notebook._rows import Row
from datastream.notebook._table import LiveTable, Tabled
from datastream.notebook._values import shown_value

if TYPE_CHECKING:
    from datastream.binding import Binding, BindingChange, Explained


class _Seen(NamedTuple):
    """What a page shows of a field; two that look the same are the same."""

    value: tuple[str, ...]
    layer: str
    key: str
    author: str


class TabledBinding(Tabled):
    """Follows the fields of a bound object, and says where each comes from."""

    columns = ("key", "value", "type", "age", "layer", "from", "by")
    heads: Mapping[str, str] = {"key": "field", "from": "key"}

    def __init__(self, binding: Binding[Any]) -> None:
        super().__init__(binding.status)
        self._binding = binding
        self._outdated = True
        self._known: dict[str, _Seen] = {}

    def picture(self, ask: dict[str, Any]) -> dict[str, Any]:
        if self._outdated:
            # Before the read: what comes meanwhile is read again.
            self._outdated = False
            self._read()
        return super().picture(ask)

    def _follow(self, changed: Callable[[], object], ended: Callable[[], object]) -> None:
        self._outdated = True
        self._known = {}
        self.follow(self._binding.changes, partial(self._take, changed), ended)

    def _take(self, changed: Callable[[], object], change: BindingChange[Any]) -> None:
        self._outdated = True
        self.standing.arrived(change.entries)
        changed()

    def _read(self) -> None:
        """Explained on the thread of the display: authors and layers are asked of the backend."""
        try:
            fields = self._binding.explain()
        except DatastreamError:
            # No object is in force: why is in the status, and the next look may find one.
            self._outdated = True
            return
        is_first = not self._known
        before, self._known = self._known, {path: _seen(one) for path, one in fields.items()}
        for path in before.keys() - fields.keys():
            self.rows.remove(path)
        for path, one in fields.items():
            if before.get(path) != self._known[path]:
                entry = Entry(one.key, b"", "", one.updated_at, one.revision)
                self.rows.put(path, one.value, entry, initial=is_first)

    def _cells(self, row: Row) -> dict[str, str]:
        _, layer, key, author = self._known[row.key]
        return {**super()._cells(row), "layer": layer, "from": key, "by": author}

    def _rejected(self) -> Iterable[Rejected]:
        return self._binding.rejected


def of_binding(binding: Binding[Any]) -> LiveTable:
    """A table of the fields of a bound object."""
    return LiveTable(
        binding.name, lambda: _html.binding_card(binding), lambda: TabledBinding(binding)
    )


def _seen(one: Explained) -> _Seen:
    value = (*shown_value(one.path, one.value), type(one.value).__name__, one.revision)
    layer = layered(one.layer, *_html.hidden_layers(one))
    return _Seen(value, visible(layer), visible(one.key), visible(one.author))
