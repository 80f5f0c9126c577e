"""Entries as text: JSON lines, tab-separated lines, and on a terminal what rich makes of them."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

import click

from datastream import Entry

SHOWN_CHARS = 500
"""More than a line of any terminal has."""

json_option = click.option(
    "--json", "json_lines", is_flag=True, help="One JSON object a line, with every field."
)


def emit(line: str) -> None:
    """One line to stdout, at once; UTF-8 whatever the locale, since JSON is."""
    click.echo(line.encode())


def has_colour() -> bool:
    """Whether stdout is a terminal that shows colours, and may."""
    return is_screen() and not os.environ.get("NO_COLOR")


def is_screen() -> bool:
    """Whether stdout is a terminal on which a cursor can be moved."""
    return sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def change_printer(*, json_lines: bool) -> Callable[[Entry], None]:
    """What prints one change for this stdout."""
    if json_lines:
        return lambda entry: emit(json_line(entry))
    if sys.stdout.isatty():
        from datastream.cli import _terminal

        return _terminal.change_printer()
    return lambda entry: emit(f"{entry.operation}\t{plain_line(entry)}")


def print_state(entries: Iterable[Entry], *, json_lines: bool, is_long: bool = False) -> None:
    """Print what a store holds; JSON has all fields anyway."""
    if not json_lines and sys.stdout.isatty():
        from datastream.cli import _terminal

        _terminal.print_table(entries, is_long=is_long)
        return
    for entry in entries:
        if json_lines:
            emit(json_line(entry))
        else:
            emit("\t".join((plain_line(entry), *(more(entry) if is_long else ()))))


def json_line(entry: Entry) -> str:
    """The entry as one JSON object."""
    return as_json(fields(entry))


def as_json(found: dict[str, Any]) -> str:
    """One JSON object on one line, harmless to a terminal: what does not print is escaped."""
    text = json.dumps(found, ensure_ascii=False)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def fields(entry: Entry) -> dict[str, Any]:
    """The entry as JSON has it; bytes that are no UTF-8 as base64, marked as such."""
    text = _text(entry.value)
    found: dict[str, Any] = {
        "key": entry.key,
        "value": _base64(entry.value) if text is None else text,
        "value_type": entry.value_type,
        "updated_at": entry.updated_at and entry.updated_at.isoformat(),
        "revision": entry.revision,
        "operation": entry.operation,
    }
    if text is None:
        found["encoding"] = "base64"
    return found


def plain_line(entry: Entry) -> str:
    """Key, value_type, value and time, separated by tabs."""
    time = entry.updated_at.isoformat() if entry.updated_at else ""
    return "\t".join((one_line(entry.key), one_line(entry.value_type), shown_value(entry), time))


def more(entry: Entry) -> tuple[str, str]:
    """Size and revision."""
    return str(len(entry.value)), one_line(entry.revision)


def shown_value(entry: Entry) -> str:
    """The value on one line, harmless to a terminal."""
    text = _text(entry.value)
    return f"base64:{_base64(entry.value)}" if text is None else one_line(text)


def shown_start(entry: Entry) -> str:
    """As much of the value as a line of a terminal has room for."""
    value = entry.value
    if len(value) > SHOWN_CHARS:
        try:
            # Cut between characters.
            value = value.decode()[:SHOWN_CHARS].encode()
        except UnicodeDecodeError:
            value = value[:SHOWN_CHARS]
    return shown_value(entry._replace(value=value))


def one_line(text: str) -> str:
    """`text` with tabs, newlines and all else that does not print as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def readable(value: bytes) -> str:
    """A value on a terminal: its lines, with all that would speak to the terminal as an escape."""
    text = value.decode(errors="backslashreplace").removesuffix("\n")
    return "\n".join("\t".join(map(one_line, line.split("\t"))) for line in text.split("\n"))


def raw(entry: Entry) -> bytes:
    """The value as `get` writes it: text without a newline gets one, all else stays as it is."""
    plain = entry.value_type == "bytes" or _text(entry.value) is None
    return entry.value if plain or entry.value.endswith(b"\n") else entry.value + b"\n"


def _text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()
