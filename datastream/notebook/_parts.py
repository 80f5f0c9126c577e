"""The parts of what notebooks show: text that is escaped and bounded, cells, tables, badges."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape

from datastream._secrets import hide
from datastream.status import State, Status

ROWS = 20
"""Entries a table shows."""
CELL_CHARS = 120
"""Characters of a text in a table."""
SHORT_CHARS = 40
"""Characters of a type or revision in a table."""
CARD_CHARS = 1000
"""Characters of the value in a card, where there is room."""

# No colours of our own but greys that show on light and dark pages alike; those of a badge carry
# white text on either.
_LINE = "1px solid rgba(128,128,128,.35)"
CELL = f"text-align:left;vertical-align:top;padding:.25em .8em;border-bottom:{_LINE}"
WIDE = f"{CELL};min-width:10em;overflow-wrap:anywhere"
EXACT = f"{WIDE};white-space:pre-wrap"
SLIM = f"{CELL};white-space:nowrap"
COLOURS = {
    State.CONNECTING: "#6b7280",
    State.READY: "#15803d",
    State.STALE: "#b45309",
    State.FAILED: "#b91c1c",
    State.CLOSED: "#6b7280",
}
_AGES = ((86_400, "d"), (3_600, "h"), (60, "min"))


def text(value: str, limit: int = CELL_CHARS) -> str:
    """A text as HTML, cut after `limit` characters."""
    return escape(visible(value, limit))


def visible(value: str, limit: int = CELL_CHARS) -> str:
    """A text as it may be shown: cut, and what would mislead spelled out."""
    cut = "…" if len(value) > limit else ""
    return "".join(_visible(char) for char in value[:limit]) + cut


def _visible(char: str) -> str:
    # Controls, lone surrogates and marks that turn the writing direction would mislead.
    return char if char.isprintable() or char == "\n" else ascii(char)[1:-1]


def age(moment: datetime | None, now: datetime | None = None) -> str:
    """How long ago something was, in one unit; "" if that is not known."""
    if moment is None:
        return ""
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    for size, unit in _AGES:
        if seconds >= size:
            return f"{seconds // size:,.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def aged(moment: datetime | None) -> str:
    """The age of something, with its time where the mouse points at it."""
    if moment is None:
        return ""
    return f'<span title="{escape(moment.isoformat(" ", "seconds"))}">{age(moment)}</span>'


def time(moment: datetime | None) -> str:
    """A time as HTML."""
    return text(moment.isoformat(" ", "seconds")) if moment else ""


def badge(word: str, colour: str) -> str:
    """A word on a colour."""
    look = "color:#fff;border-radius:.6em;padding:0 .6em;font-size:.85em"
    return f'<span style="background:{colour};{look}">{text(word)}</span>'


def state(state: State) -> str:
    """A state on its colour."""
    return badge(state, COLOURS[state])


def standing(status: Status, *more: str) -> str:
    """A badge, and in dim words what else there is to say of a status."""
    words = " · ".join(filter(None, (*more, status.degraded)))
    return state(status.state) + (f" {dim(text(words, CARD_CHARS))}" if words else "")


def problem(error: Exception | None) -> str:
    """An error in words."""
    if error is None:
        return ""
    return f"<div>{text(hide(f'{type(error).__name__}: {error}'), CARD_CHARS)}</div>"


def counted(number: int, noun: str) -> str:
    """``1 key``, ``2,000 keys``."""
    return f"{number:,} {noun if number == 1 else noun + 's'}"


def layered(*names: str) -> str:
    """The layer that is visible, and those that it hides."""
    first, *hidden = names or ("",)
    return f"{first} hides {', '.join(hidden)}" if hidden else first


def more(number: int) -> str:
    """How many rows a table leaves out."""
    return f"<div>{dim(f'… and {number:,} more')}</div>" if number > 0 else ""


def dim(html: str) -> str:
    """What stands back."""
    return f'<span style="opacity:.6">{html}</span>'


def block(html: str) -> str:
    """What scrolls if it is high."""
    return f'<div style="max-height:20em;overflow:auto">{html}</div>'


def title(name: str, rest: str = "") -> str:
    """A name in bold, and what is said beside it."""
    return f"<div><strong>{text(name)}</strong> {rest}</div>"


def cell(style: str, html: str) -> str:
    """One cell of a table."""
    return f'<td style="{style}">{html}</td>'


def table(rows: Iterable[str], names: Iterable[str] = ()) -> str:
    """A table of rows, each made of cells; "" without rows."""
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    if not body:
        return ""
    head = "".join(f'<th style="{SLIM}">{dim(text(name))}</th>' for name in names)
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    style = "border-collapse:collapse;color:inherit;font-family:monospace"
    return f'<table style="{style}">{head}<tbody>{body}</tbody></table>'


def fields(pairs: Iterable[tuple[str, str]]) -> str:
    """A table of names and what they stand for, without those that have nothing."""
    return table(cell(SLIM, dim(name)) + cell(EXACT, html) for name, html in pairs if html)


def box(*parts: str) -> str:
    """The whole."""
    return f'<div class="datastream">{"".join(parts)}</div>'
