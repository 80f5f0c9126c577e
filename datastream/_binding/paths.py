"""Objects of models as trees of paths: what is at one, which ones differ, what is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from enum import Enum
from typing import Any

from pydantic import BaseModel, SecretBytes, SecretStr
from pydantic_core import to_jsonable_python

from datastream._binding.tree import Path
from datastream._binding.types import fields_of
from datastream.errors import InvalidKey, shown

_MISSING: Any = object()


def children(value: Any) -> dict[str, Any] | None:
    """The parts of a model, dict, list or tuple by name; None of anything else."""
    if isinstance(value, BaseModel):
        extra = value.model_extra or {}
        return {name: getattr(value, name) for name in type(value).model_fields} | extra
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): part for name, part in value.items()}
    as_dict: Any = getattr(value, "_asdict", None)
    if isinstance(value, tuple) and as_dict is not None:
        return dict(as_dict())
    if isinstance(value, list | tuple):
        return {str(number): part for number, part in enumerate(value)}
    return None


def differing(old: Any, new: Any, path: Path = ()) -> Iterator[Path]:
    """The paths at which two objects differ, the deepest that both have."""
    # Not by recursion: a dotted name of TOML is as deep as it is long.
    left = [(path, old, new)]
    while left:
        path, old, new = left.pop()
        if old is _MISSING or new is _MISSING:
            yield path
            continue
        if old is new:
            continue
        before, after = children(old), children(new)
        if before is None or after is None:
            if not _same(old, new):
                yield path
            continue
        if _kind(old) is not _kind(new):
            # The whole has no path of its own.
            yield from [path] if path else [below for below, _ in leaves(new)]
            continue
        names = reversed((before | after).keys())
        left += [
            ((*path, name), before.get(name, _MISSING), after.get(name, _MISSING)) for name in names
        ]


def _kind(value: Any) -> type:
    """What an object with parts is: its model, or a dict, or a list."""
    if isinstance(value, Mapping):
        return dict
    is_list = isinstance(value, list | tuple) and not hasattr(value, "_fields")
    return list if is_list else type(value)


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every path that has no parts, with its value."""
    # Not by recursion: a dotted name of TOML is as deep as it is long.
    left = [(path, value)]
    while left:
        path, value = left.pop()
        parts = children(value)
        if parts:
            left += [((*path, name), part) for name, part in reversed(parts.items())]
        else:
            yield path, value


def at(value: Any, path: Path) -> Any:
    """What is at `path`, None if there is nothing."""
    for name in path:
        value = (children(value) or {}).get(name)
    return value


def check_path(value: Any, path: Path, what: str) -> None:
    """Refuse what can be no path of an object such as `value`; dicts may get any key.

    Raises:
        InvalidKey: a model has no such field, or something else no parts.
    """
    for number, name in enumerate(path):
        parts = children(value)
        if value is None or (parts is None and number == 0):
            return
        if parts is None or (name not in parts and not isinstance(value, Mapping | list | tuple)):
            known = ", ".join(parts or ())
            close = get_close_matches(name, parts or (), 1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {known or 'none'}"
            raise InvalidKey(f"{what} has no field {shown(dotted(path[: number + 1]))}; {hint}")
        value = parts.get(name)


def plain(value: Any) -> Any:
    """What JSON can say, secrets included and by aliases: this is what is stored."""
    if isinstance(value, SecretStr | SecretBytes):
        return plain(value.get_secret_value())
    if isinstance(value, bytes):
        return value
    if isinstance(value, Enum):
        return plain(value.value)
    parts = children(value)
    if parts is None:
        # Sets, times, paths, numbers of other kinds.
        return [*map(plain, value)] if isinstance(value, set | frozenset) else _jsonable(value)
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [plain(part) for part in parts.values()]
    fields = fields_of(type(value)) or {}
    return {
        fields[name].input if name in fields else name: plain(part) for name, part in parts.items()
    }


def dotted(path: Path) -> str:
    return ".".join(path)


def covers(path: Path, other: Path) -> bool:
    """One is at or above the other."""
    length = min(len(path), len(other))
    return path[:length] == other[:length]


def _jsonable(value: Any) -> Any:
    return to_jsonable_python(value)


def _same(old: Any, new: Any) -> bool:
    try:
        return type(old) is type(new) and bool(old == new)
    except Exception:  # noqa: BLE001
        return False
