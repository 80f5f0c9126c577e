"""A `Store` as a table and an `Entry` as a card, for Jupyter: bounded, and escaped throughout."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Iterable
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING

from datastream.entry import Entry, Operation
from datastream.status import State

if TYPE_CHECKING:
    from datastream.store import Store

ROWS = 20
"""Entries a table shows."""
CELL_CHARS = 120
"""Characters of a text in a table."""
SHORT_CHARS = 40
"""Characters of a type or revision in a table."""
CARD_CHARS = 1000
"""Characters of the value in a card, where there is room."""
HEX_BYTES = 16
"""Bytes shown of a value that is no text."""

# No colours of our own but greys that show on light and dark pages alike.
_LINE = "1px solid rgba(128,128,128,.35)"
_CELL = f"text-align:left;vertical-align:top;padding:.25em .8em;border-bottom:{_LINE}"
_WIDE = f"{_CELL};min-width:10em;overflow-wrap:anywhere"
_EXACT = f"{_WIDE};white-space:pre-wrap"
_SLIM = f"{_CELL};white-space:nowrap"
_DIM = "opacity:.6"


def entry_card(entry: Entry) -> str:
    """One entry, field by field."""
    fields = (
        ("value", _block(_value(entry, CARD_CHARS))),
        ("type", _text(entry.value_type)),
        ("revision", _text(entry.revision)),
        ("updated", _time(entry.updated_at)),
    )
    rows = [_cell(_SLIM, _dim(name)) + _cell(_EXACT, html) for name, html in fields if html]
    return _box(_title(entry.key), _table(rows))


def store_table(store: Store) -> str:
    """The first entries of a store under its name and status; an error in words, never raised."""
    if store.status.current.state is State.CLOSED:
        return _box(_title(store.name, _dim("closed")))
    try:
        count, entries = _first_entries(store)
    except Exception as error:  # noqa: BLE001
        # Whatever a source raises, a display must not.
        return _box(_title(store.name, _dim("unavailable")), _problem(error))
    # As it is after these reads, which may have been the first contact.
    status = store.status.current
    head = _title(store.name, _dim(f"{status.state} · {count:,} {'key' if count == 1 else 'keys'}"))
    more = f"<div>{_dim(f'… and {count - ROWS:,} more')}</div>" if count > ROWS else ""
    return _box(head, _problem(status.error), _entries_table(entries), more)


def _first_entries(store: Store) -> tuple[int, list[Entry]]:
    """How many keys there are, and the entries of the first few: the rest is never fetched."""
    known = store.capabilities()
    keys = [capability.key for capability in known[:ROWS]]
    state = store.snapshot(*keys) if keys else {}
    # A key may have gone between the two looks.
    return len(known), [state[key] for key in keys if key in state]


def _entries_table(entries: Iterable[Entry]) -> str:
    names = ("key", "value", "type", "updated", "revision")
    head = "".join(f'<th style="{_SLIM}">{_dim(name)}</th>' for name in names)
    rows = [_row(entry) for entry in entries]
    return _table(rows, f"<thead><tr>{head}</tr></thead>") if rows else ""


def _row(entry: Entry) -> str:
    return "".join(
        (
            _cell(_EXACT, _text(entry.key)),
            _cell(_WIDE, _value(entry, CELL_CHARS)),
            _cell(_SLIM, _text(entry.value_type, SHORT_CHARS)),
            _cell(_SLIM, _time(entry.updated_at)),
            _cell(_SLIM, _text(entry.revision, SHORT_CHARS)),
        )
    )


def _value(entry: Entry, limit: int) -> str:
    data = entry.value
    if entry.operation is Operation.DELETE:
        return _dim("deleted")
    if not data:
        return _dim("empty")
    text = _decoded(data, limit)
    if text is None:
        cut = "…" if len(data) > HEX_BYTES else ""
        return f"{data[:HEX_BYTES].hex(' ')}{cut} {_dim(_size(data))}"
    size = f" {_dim(_size(data))}" if len(text) > limit else ""
    return _text(text, limit) + size


def _decoded(data: bytes, limit: int) -> str | None:
    """More than `limit` characters if there are as many; None if it is no text in UTF-8."""
    head = data[: 4 * (limit + 1)]
    try:
        text = getincrementaldecoder("utf-8")().decode(head, final=len(head) == len(data))
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _text(text: str, limit: int = CELL_CHARS) -> str:
    cut = "…" if len(text) > limit else ""
    return escape("".join(_visible(char) for char in text[:limit])) + cut


def _visible(char: str) -> str:
    # Controls, lone surrogates and marks that turn the writing direction would mislead.
    return char if char.isprintable() or char == "\n" else ascii(char)[1:-1]


def _size(data: bytes) -> str:
    return f"{len(data):,} {'byte' if len(data) == 1 else 'bytes'}"


def _time(moment: datetime | None) -> str:
    return _text(moment.isoformat(" ", "seconds")) if moment else ""


def _problem(error: Exception | None) -> str:
    if error is None:
        return ""
    return f"<div>{_text(f'{type(error).__name__}: {error}', CARD_CHARS)}</div>"


def _dim(html: str) -> str:
    return f'<span style="{_DIM}">{html}</span>'


def _block(html: str) -> str:
    return f'<div style="max-height:20em;overflow:auto">{html}</div>'


def _title(name: str, rest: str = "") -> str:
    return f"<div><strong>{_text(name)}</strong> {rest}</div>"


def _table(rows: Iterable[str], head: str = "") -> str:
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    style = "border-collapse:collapse;color:inherit;font-family:monospace"
    return f'<table style="{style}">{head}<tbody>{body}</tbody></table>'


def _cell(style: str, html: str) -> str:
    return f'<td style="{style}">{html}</td>'


def _box(*parts: str) -> str:
    return f'<div class="datastream">{"".join(parts)}</div>'
