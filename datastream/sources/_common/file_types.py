"""The value_type of what is stored without one: files, objects, blobs.

It follows from the name's extension, else from the content; of large content only the beginning
is looked at, so that a listing and the value itself always agree.
"""

from __future__ import annotations

import codecs as text_codecs
import json
import math
import mimetypes
import re
from decimal import Decimal

from datastream import codecs
from datastream.errors import InvalidValue, shown

SNIFFED = 65_536
"""Bytes from which the type of a nameless content is told."""

_MORE = {
    "arrow": "application/vnd.apache.arrow.file",
    "avro": "application/avro",
    "cfg": "text/plain",
    "conf": "text/plain",
    "env": "text/plain",
    "feather": "application/vnd.apache.arrow.file",
    "geojson": "application/geo+json",
    "gz": "application/gzip",
    "ini": "text/plain",
    "ipynb": "application/x-ipynb+json",
    "jsonl": "application/x-ndjson",
    "log": "text/plain",
    "md": "text/markdown",
    "ndjson": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
    "properties": "text/plain",
    "rst": "text/x-rst",
    "sql": "text/x-sql",
    "toml": "application/toml",
    "yaml": "application/yaml",
    "yml": "application/yaml",
    "zst": "application/zstd",
}
# Python's own table, not the machine's: the same name has the same type everywhere.
_BY_EXTENSION = {
    extension.removeprefix("."): name
    for extension, name in mimetypes.MimeTypes(strict=True).types_map[True].items()
} | _MORE

_INT = re.compile(rb"0|-?[1-9][0-9]{0,300}")
_FLOAT = re.compile(rb"-?[0-9][0-9.e+-]{1,30}")
_JSON_STARTS = (b"{", b"[", b'"', b"null")
_CHECKED = ("int", "float", "bool", "str", "json")


def type_of_name(name: str) -> str | None:
    """The type that the extension of a key's last segment stands for, if it has one."""
    stem, dot, extension = name[name.rfind("/") + 1 :].rpartition(".")
    return _BY_EXTENSION.get(extension.lower()) if stem and dot else None


def type_of(name: str, value: bytes, size: int | None = None) -> str:
    """The type of what is stored under `name`.

    Args:
        name: the key.
        value: the content, or its first `SNIFFED` bytes.
        size: of the whole content, if `value` is not all of it.
    """
    known = type_of_name(name)
    if known is not None:
        return known
    if (len(value) if size is None else size) <= SNIFFED:
        return _type_of_all(value)
    return _type_of_start(value[:SNIFFED], whole=False)


def check_round_trip(name: str, value: bytes, value_type: str) -> str:
    """The type that `value` will be read back with.

    Where the name tells it, that is its type, whatever it was given as: text under ``a.yaml``
    is YAML. Bytes, and types that this library does not know, are taken as they are.

    Raises:
        InvalidValue: the name does not tell, and the content would tell something else.
    """
    found = type_of(name, value)
    if value_type not in _CHECKED or value_type == found or type_of_name(name):
        return found
    given = codecs.decode(value, value_type, key=name)
    back = codecs.decode(value, found, key=name)
    if back != given or not (type(back) is type(given) or _are_numbers(back, given)):
        raise InvalidValue(
            f"{shown(name)} would read back as {found}, not as {value_type}, because types are "
            "not stored here; give the key an extension, such as .txt or .json, or put bytes"
        )
    return found


def _are_numbers(*values: object) -> bool:
    """Whether all are numbers: 12 is as good as 12.0, which programs in Go print as 12."""
    return all(type(value) in (int, float) for value in values)


def _type_of_all(value: bytes) -> str:
    if value in (b"true", b"false"):
        return "bool"
    if _INT.fullmatch(value):
        return "int"
    if _FLOAT.fullmatch(value) and _is_float(value):
        return "float"
    if value.startswith(_JSON_STARTS) and _is_json(value):
        return "json"
    return _type_of_start(value, whole=True)


def _is_float(value: bytes) -> bool:
    # Only as Python or Go would have written it: "007" or "1.50" is somebody's text.
    try:
        number = float(value)
    except ValueError:
        return False
    return value.decode() in (repr(number), _as_go_prints(number))


def _as_go_prints(number: float) -> str:
    """``1e+06``, which Python writes as 1000000.0; "" for what Go prints without an exponent."""
    if not math.isfinite(number) or not number:
        return ""
    sign, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
    power = len(digits) - 1 + int(exponent)
    first, *rest = map(str, digits)
    mantissa = f"{first}.{''.join(rest)}" if rest else first
    return f"{'-' * sign}{mantissa}e{power:+03d}" if not -4 <= power < 6 else ""


def _is_json(value: bytes) -> bool:
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        return False
    return True


def _type_of_start(value: bytes, *, whole: bool) -> str:
    if b"\0" in value:
        return "bytes"
    try:
        # A character that is cut at the end is none the worse for it.
        text_codecs.getincrementaldecoder("utf-8")().decode(value, final=whole)
    except UnicodeDecodeError:
        return "bytes"
    return "str"
