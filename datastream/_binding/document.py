"""One key that holds a whole object as JSON, YAML or TOML."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from functools import partial
from typing import Any

from datastream import codecs
from datastream._formats import Format, Malformed, Toml, Yaml, json_text, spelled_as
from datastream.entry import Entry
from datastream.errors import InvalidValue, Unsupported, shown

_EDITORS: Mapping[str, type[Format]] = {"yaml": Yaml, "toml": Toml}
_MISSING = object()
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
    """`content` as bytes and type, with the comments and the formatting that were there.

    Raises:
        Unsupported: no format is known that says it.
        InvalidValue: the format cannot say it.
        ImportError: the extra ``documents`` is missing.
    """
    kind = _kind(key) if before is None else format_of(before)
    text = b"" if before is None else before.value
    if "json" not in kind:
        return _edited(key, kind, text, content), kind if before is None else before.value_type
    try:
        made = json_text(content, text, None)
    except (TypeError, ValueError) as error:
        raise InvalidValue(f"{shown(key)} cannot hold this as JSON: {error}") from error
    return made, "json" if before is None else before.value_type


def _edited(key: str, kind: str, text: bytes, content: Any) -> bytes:
    editor = next((editor for name, editor in _EDITORS.items() if name in kind), None)
    if editor is None or not isinstance(content, dict):
        raise Unsupported(f"{shown(key)} is {kind}, which is not written; put the whole key")
    try:
        return editor().edit(text, partial(_bring_to, wanted=content))
    except Malformed as error:
        raise InvalidValue(f"{shown(key)}: {error}") from error


def _bring_to(document: MutableMapping[Any, Any], wanted: Mapping[Any, Any]) -> None:
    """Change what differs, and leave all else as it is spelled."""
    for name in [name for name in document if name not in wanted]:
        del document[name]
    for name, value in wanted.items():
        there = document.get(name, _MISSING)
        if isinstance(there, MutableMapping) and isinstance(value, dict):
            _bring_to(there, value)
        elif there != value or isinstance(there, bool) != isinstance(value, bool):
            document[name] = spelled_as(there, value)


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
