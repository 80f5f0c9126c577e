"""Rows as values: a JSON object with a member for each column."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Collection, Mapping
from typing import Any

from datastream.errors import InvalidValue, shown
from datastream.sources._common.row_keys import meant

ALL = "*"
"""``value=`` for every column that is not part of the key."""
BASE64 = "base64"
"""The only member of an object that stands for bytes."""


def object_of(key: str, value: bytes, value_type: str) -> dict[str, Any]:
    """The members of a value that is to be merged into a row.

    Raises:
        InvalidValue: it is no JSON object.
    """
    try:
        members = json.loads(value, parse_constant=_refuse) if value_type == "json" else None
    except (ValueError, RecursionError):
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


def text_of(members: Mapping[str, Any]) -> str:
    """The JSON of a row, the same in every process."""
    return json.dumps(members, ensure_ascii=False, separators=(",", ":"))


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


def _refuse(constant: str) -> None:
    raise ValueError(f"JSON has no {constant}")
