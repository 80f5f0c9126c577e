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
    if name == TABLE:
        return _limits(path, value)
    option = known.get(name)
    if option is None or name == "config":
        guess = difflib.get_close_matches(name, [*known, TABLE], 1)
        hint = f"; did you mean {guess[0]!r}?" if guess else ""
        raise DatastreamError(f"{path}: {shown(name)} is no option of serve{hint}")
    wanted, kinds = _kinds(option)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise DatastreamError(f"{path}: {name} = {shown(str(value))} is not {wanted}")
    return str(value) if str in kinds else value


def _limits(path: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DatastreamError(
            f"{path}: {TABLE} = {shown(str(value))} is no table; write [{TABLE}], and below it "
            "such as streams = 500"
        )
    return {_name(key): number for key, number in value.items()}


def _kinds(option: click.Parameter) -> tuple[str, tuple[type, ...]]:
    """What an option takes, in words and as types."""
    if isinstance(option, click.Option) and option.is_flag:
        return "true or false", (bool,)
    if isinstance(option.type, click.types.IntParamType):
        return "a whole number", (int,)
    if isinstance(option.type, click.types.FloatParamType):
        return "a number", (int, float)
    return "a text", (str, int, float)
