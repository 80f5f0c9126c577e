"""The TOML file of ``serve``: the same options as on its command line."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from datastream.errors import DatastreamError, shown

TABLE = "limits"
"""A table of its own; all else is the name of an option."""


def read_config(path: str, options: Iterable[click.Parameter]) -> dict[str, Any]:
    """What a file says, by the names of the parameters.

    Paths in it are as on the command line: from the directory where it is run.

    Raises:
        DatastreamError: it cannot be read, or says what is no option.
    """
    try:
        told = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DatastreamError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    known = {option.name: option for option in options if option.name}
    return {
        name: _checked(path, name, value, known)
        for name, value in ((_name(key), value) for key, value in told.items())
    }


def _name(key: str) -> str:
    return key.replace("-", "_")


def _checked(path: str, name: str, value: Any, known: dict[str, click.Parameter]) -> Any:
    if name == TABLE and isinstance(value, dict):
        return value
    option = known.get(name)
    if option is None or name == "config":
        guess = difflib.get_close_matches(name, [*known, TABLE], 1)
        hint = f"; did you mean {guess[0]!r}?" if guess else ""
        raise DatastreamError(f"{path}: {shown(name)} is no option of serve{hint}")
    is_flag = isinstance(option, click.Option) and option.is_flag
    is_number = isinstance(option.type, click.types.FloatParamType | click.types.IntParamType)
    fits = isinstance(value, bool) if is_flag else not isinstance(value, bool | dict | list)
    if not fits or (is_number and not isinstance(value, int | float)):
        wanted = "true or false" if is_flag else "a number" if is_number else "a text"
        raise DatastreamError(f"{path}: {name} = {shown(str(value))} is not {wanted}")
    return value if is_flag or is_number else str(value)
