"""From what stands on the command line to the bytes and the type to store."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from datastream import InvalidValue, codecs
from datastream.errors import shown

_SCALARS = {"int", "float", "bool"}


def given_value(argument: str, value_type: str | None, key: str) -> tuple[bytes, str]:
    """The bytes and the value_type that VALUE and --type ask for; "-" reads stdin.

    Raises:
        InvalidValue: the text is not of that type.
    """
    data = sys.stdin.buffer.read() if argument == "-" else os.fsencode(argument)
    name = inferred_type(data) if value_type is None else value_type
    if name in _SCALARS:
        # `echo 42 | datastream put …` ends in a newline that is no part of the number.
        data = data.strip()
    try:
        codecs.decode(data, name, key=key)
    except InvalidValue as error:
        text = shown(data.decode(errors="backslashreplace"))
        # What Python says of numbers is about its int() and float().
        reason = "" if name in _SCALARS else f": {error.__cause__}"
        raise InvalidValue(
            f"{text} for {shown(key)} is no {name}{reason}; nothing was written"
        ) from error
    return data, name


def inferred_type(data: bytes) -> str:
    """The type a reader of `data` would guess: numbers as JSON has them, so 007 stays text."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return "bytes"
    try:
        parsed = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return "str"
    names: dict[type, str] = {
        bool: "bool", int: "int", float: "float", dict: "json", list: "json"
    }  # fmt: skip
    return names.get(type(parsed), "str")


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
