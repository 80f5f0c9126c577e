"""Objects as HTML, for notebooks: bounded, escaped, without secrets, never raising."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from datastream.entry import Capability, Entry
from datastream.notebook import _parts as parts
from datastream.notebook._parts import CARD_CHARS, EXACT, ROWS, SHORT_CHARS, SLIM, WIDE, cell, text
from datastream.notebook._values import shown_entry, shown_value
from datastream.status import State, Status

if TYPE_CHECKING:
    from datastream.binding import Binding, Explained
    from datastream.store import Store
    from datastream.view import View

COLUMNS = ("key", "value", "type", "age", "revision")
DEFAULTS = "defaults"
"""What `Binding.explain` calls the layer below all others."""


def entry_card(entry: Entry) -> str:
    """One entry, field by field."""
    fields = (
        ("value", parts.block(shown_entry(entry, CARD_CHARS).html(CARD_CHARS))),
        ("type", text(entry.value_type)),
        ("revision", text(entry.revision)),
        ("updated", parts.time(entry.updated_at)),
    )
    return parts.box(parts.title(entry.key), parts.fields(fields))


def store_table(store: Store) -> str:
    """The first entries of a store under its name and status; an error in words, never raised."""
    if store.status.current.state is State.CLOSED:
        return _headed(store.name, store.status.current)
    try:
        count, entries = _first_entries(store)
    except Exception as error:  # noqa: BLE001
        # Whatever a source raises, a display must not.
        head = parts.title(store.name, parts.dim("unavailable"))
        return parts.box(head, parts.problem(error))
    # As it is after these reads, which may have been the first contact.
    status = store.status.current
    table = parts.table(map(entry_row, entries), COLUMNS)
    words = (*_layers(store), parts.counted(count, "key"))
    return _headed(store.name, status, *words, body=table + parts.more(count - ROWS))


def entries_table(name: str, status: Status, entries: Sequence[Entry]) -> str:
    """The first of some entries, under a name and a status."""
    table = parts.table(map(entry_row, entries[:ROWS]), COLUMNS)
    words = parts.counted(len(entries), "key")
    return _headed(name, status, words, body=table + parts.more(len(entries) - ROWS))


def view_table(view: View[Any]) -> str:
    """The first values of a view, out of memory."""
    status = view.status.current
    try:
        values: Mapping[str, Any] = view.snapshot()
    except Exception as error:  # noqa: BLE001
        return _headed(view.name, status, body=parts.problem(error))
    some = islice(values.items(), ROWS)
    table = parts.table((value_row(*item) for item in some), ("key", "value", "type"))
    words = [parts.counted(len(values), "key")]
    if view.rejected:
        words.append(f"{parts.counted(len(view.rejected), 'value')} rejected")
    return _headed(view.name, status, *words, body=table + parts.more(len(values) - ROWS))


def binding_card(binding: Binding[Any]) -> str:
    """The fields of a bound object and where each is from; why a newer state is not in force."""
    status = binding.status.current
    try:
        explained = list(binding.explain().values())
    except Exception as error:  # noqa: BLE001
        return _headed(binding.name, status, body=parts.problem(error))
    names = ("field", "value", "layer", "key", "by")
    table = parts.table(map(_field_row, explained[:ROWS]), names)
    body = table + parts.more(len(explained) - ROWS) + _rejected(binding)
    return _headed(binding.name, status, body=body)


def server_card(address: str, clients: Iterable[str], store: Store) -> str:
    """Where a server listens, what it serves, and who holds streams open."""
    peers = list(clients)
    shown = ", ".join(peers[:ROWS]) + (" …" if len(peers) > ROWS else "")
    fields = (
        ("serves", text(store.name)),
        ("clients", f"{len(peers):,} {parts.dim(text(shown, CARD_CHARS))}"),
    )
    return parts.box(
        parts.title(address, parts.state(store.status.current.state)), parts.fields(fields)
    )


def entry_row(entry: Entry) -> str:
    """An entry as cells under `COLUMNS`."""
    return "".join(
        (
            cell(EXACT, text(entry.key)),
            cell(WIDE, shown_entry(entry).html(parts.CELL_CHARS)),
            cell(SLIM, text(entry.value_type, SHORT_CHARS)),
            cell(SLIM, parts.aged(entry.updated_at)),
            cell(SLIM, text(entry.revision, SHORT_CHARS)),
        )
    )


def value_row(key: str, value: Any) -> str:
    """A decoded value as cells: key, value, type."""
    html = shown_value(key, value).html(parts.CELL_CHARS)
    kind = text(type(value).__name__, SHORT_CHARS)
    return cell(EXACT, text(key)) + cell(WIDE, html) + cell(SLIM, kind)


def _first_entries(store: Store) -> tuple[int, list[Entry]]:
    """How many keys there are, and the entries of the first few: the rest is never fetched."""
    known: list[Capability] = list(store.capabilities())
    keys = [capability.key for capability in known[:ROWS]]
    state = store.snapshot(*keys) if keys else {}
    # A key may have gone between the two looks.
    return len(known), [state[key] for key in keys if key in state]


def _layers(store: Store) -> Iterable[str]:
    """Of an overlay, how many stores it lays over each other."""
    layers = getattr(store, "layers", ())
    return [parts.counted(len(layers), "layer")] if layers else []


def _field_row(one: Explained) -> str:
    cells = (
        (EXACT, text(one.path)),
        (WIDE, shown_value(one.path.replace(".", "/"), one.value).html(parts.CELL_CHARS)),
        (WIDE, text(parts.layered(one.layer, *hidden_layers(one)))),
        (EXACT, text(one.key)),
        (SLIM, text(one.author, SHORT_CHARS)),
    )
    return "".join(cell(*each) for each in cells)


def hidden_layers(one: Explained) -> list[str]:
    """The layers that hold a field as well; that a model has defaults goes without saying."""
    return [hidden.layer for hidden in one.hides if hidden.layer != DEFAULTS]


def _rejected(binding: Binding[Any]) -> str:
    refused = binding.rejected
    if not refused:
        return ""
    rows = [
        cell(EXACT, text(one.key)) + cell(WIDE, text(one.reason, CARD_CHARS))
        for one in refused[:ROWS]
    ]
    head = parts.badge("rejected", parts.COLOURS[State.STALE])
    return f"<div>{head} the last good state is in force</div>" + parts.table(rows)


def _headed(name: str, status: Status, *words: str, body: str = "") -> str:
    head = parts.title(name, parts.standing(status, *words))
    return parts.box(head, parts.problem(status.error), body)
