"""One key that holds a whole object as JSON, YAML or TOML."""

from __future__ import annotations

import json
import re
from typing import Any

from datastream import codecs
from datastream.entry import Entry
from datastream.errors import InvalidValue, Unsupported, shown

_BY_EXTENSION = {
    "json": "json",
    "yaml": "application/yaml",
    "yml": "application/yaml",
    "toml": "application/toml",
}


def parse(entry: Entry) -> Any:
    """The object that a document holds; by its type, else its key's extension, else as JSON.

    Raises:
        InvalidValue, ImportError: it cannot be read.
    """
    value = entry.decode()
    if not isinstance(value, str | bytes):
        return value
    return codecs.decode(entry.value, format_of(entry), key=entry.key)


def dump(key: str, before: Entry | None, content: Any) -> tuple[bytes, str]:
    """`content` as bytes and type, indented as it was before.

    Raises:
        Unsupported: it is not JSON.
        InvalidValue: JSON cannot say it.
    """
    kind = _kind(key) if before is None else format_of(before)
    if "json" not in kind:
        raise Unsupported(
            f"{shown(key)} is {kind}, whose comments and formatting would be lost; edit the "
            "document itself"
        )
    text = b"" if before is None else before.value
    try:
        made = json.dumps(content, ensure_ascii=False, allow_nan=False, indent=_indent(text))
    except (TypeError, ValueError) as error:
        raise InvalidValue(f"{shown(key)} cannot hold this as JSON: {error}") from error
    end = "\n" if text.endswith(b"\n") else ""
    return f"{made}{end}".encode(), "json" if before is None else before.value_type


def format_of(entry: Entry) -> str:
    """The type by which a document is read."""
    if isinstance(_decoded(entry), str | bytes):
        return _kind(entry.key)
    return entry.value_type


def _decoded(entry: Entry) -> Any:
    try:
        return entry.decode()
    except (InvalidValue, ImportError):
        return None


def _kind(key: str) -> str:
    return _BY_EXTENSION.get(key.rpartition(".")[2].lower(), "json")


def _indent(text: bytes) -> str | None:
    found = re.match(rb"[{\[]\r?\n([ \t]+)", text)
    return found[1].decode() if found else None
