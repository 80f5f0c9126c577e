"""Rows as values: a JSON object with a member for each column."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Collection
from typing import Any

from datastream.errors import InvalidValue, shown
from datastream.sources._common.row_keys import meant

ALL = "*"
"""``value=`` for every column that is not part of the key."""
BASE64 = "base64"
"""The only member of an object that stands for bytes."""
_HALVES = re.compile(r"[\ud800-\udfff]")
"""As which Python has bytes that are no UTF-8, too."""


def object_of(key: str, value: bytes, value_type: str) -> dict[str, Any]:
    """The members of a value that is to be merged into a row.

    Raises:
        InvalidValue: it is no JSON object.
    """
    try:
        members = json_of(value.decode()) if value_type == "json" else None
    except ValueError:
        members = None
    if not isinstance(members, dict):
        raise InvalidValue(
            f"{shown(key)} is a row; put a JSON object with its columns, such as a dict"
        )
    return members


def check_columns(key: str, members: Collection[str], known: Collection[str]) -> None:
    """Refuse members that no column holds.

    Raises:
        InvalidValue: there is one.
    """
    for name in members:
        if name not in known:
            raise InvalidValue(
                f"{shown(key)}: {shown(name)} is no column that can be put{meant(name, known)} "
                f"(there are {', '.join(known)}); nothing was written"
            )


def text_of(members: object) -> str:
    """The JSON of a row or a member, the same in every process.

    What is no UTF-8, or a half of a character, is escaped: the text is JSON whatever it holds.

    Raises:
        ValueError: it has a number that a float cannot hold, or is nested too deep.
    """
    try:
        text = json.dumps(members, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    return text if text.isascii() else _HALVES.sub(_escaped, text)


def json_of(text: str) -> object:
    """What a JSON text holds.

    Raises:
        ValueError: it is none.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def spelled_json_of(text: str) -> object:
    """The same, if `text_of` can spell it as part of a row.

    Raises:
        ValueError: it cannot, or it is none.
    """
    found = json_of(text)
    text_of([found])
    return found


def member_of(value: object) -> object:
    """A value of a column as JSON has it: bytes as ``{"base64": …}``, no number as text."""
    if isinstance(value, bytes):
        return {BASE64: base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def bytes_of(member: object) -> bytes | None:
    """The bytes that a member stands for; None if it stands for none."""
    if isinstance(member, dict) and member.keys() == {BASE64}:
        try:
            return base64.b64decode(member[BASE64], validate=True)
        except (TypeError, ValueError, binascii.Error):
            return None
    return None


def is_text(text: str) -> bool:
    """Whether UTF-8 can spell it: it has no half of a character."""
    return text.isascii() or not _HALVES.search(text)


def _escaped(half: re.Match[str]) -> str:
    return f"\\u{ord(half[0]):04x}"


def _refuse(constant: str) -> None:
    raise ValueError(f"JSON has no {constant}")
