"""The value_type of what is stored as a file: from its name, else from its content."""

from __future__ import annotations

import json
import mimetypes
from functools import lru_cache
from typing import Any

_OURS = {
    ".json": "application/json",
    ".parquet": "application/vnd.apache.parquet",
    ".toml": "application/toml",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".md": "text/markdown",
}
_LONGEST_SCALAR = 40
_SCALARS: dict[type, str] = {bool: "bool", int: "int", float: "float"}


def type_of_name(name: str) -> str | None:
    """The type that the extension of `name` stands for; None if it has none that is known."""
    base = name[name.rfind("/") + 1 :]
    dot = base.rfind(".")
    return _of_extension(base[dot:].lower()) if dot > 0 else None


def type_of(name: str, value: bytes) -> str:
    """The type of a file: by its name, else ``int float bool json str`` or ``bytes``."""
    return type_of_name(name) or _of_content(value)


@lru_cache(maxsize=1024)
def _of_extension(extension: str) -> str | None:
    return _OURS.get(extension) or mimetypes.guess_type(f"x{extension}")[0]


def _of_content(value: bytes) -> str:
    if b"\0" in value:
        return "bytes"
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return "bytes"
    if text[:1] in ("{", "[") or len(text) <= _LONGEST_SCALAR:
        return _of_text(text)
    return "str"


def _of_text(text: str) -> str:
    try:
        parsed = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return "str"
    if isinstance(parsed, dict | list):
        return "json"
    # "1 " is text: a scalar is one only in its plain spelling.
    return _SCALARS.get(type(parsed), "str") if text == text.strip() else "str"


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
