"""What the annotations of a model say about its fields."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, NamedTuple, NotRequired, Required, Union, get_args, get_origin

from pydantic import AliasChoices, AliasPath, BaseModel
from typing_extensions import ReadOnly, TypeAliasType, is_typeddict

from datastream.errors import Unsupported, shown

_WRAPPERS = (Annotated, Required, NotRequired, ReadOnly)


class Field(NamedTuple):
    """One field of a model."""

    name: str
    """Of the attribute."""
    input: str
    """Under which pydantic takes it: the name, or its alias."""
    names: frozenset[str]
    """All that a key may call it; none where an alias path says where it is."""
    annotation: Any
    required: bool
    default: Any = None
    """What it is without a key, where that is a fixed value."""
    alias_paths: tuple[tuple[str, ...], ...] = ()
    """Segments within what the model is made of, where it may be instead, the first one first."""


def unwrapped(annotation: Any) -> Any:
    """The type within ``Annotated``, ``Required`` and aliases."""
    while True:
        origin = get_origin(annotation)
        if origin in _WRAPPERS:
            annotation = get_args(annotation)[0]
        elif isinstance(annotation, TypeAliasType):
            annotation = annotation.__value__
        elif isinstance(annotation, type) and _is_root_model(annotation):
            annotation = annotation.model_fields["root"].annotation  # type: ignore[attr-defined]
        else:
            return annotation


def fields_of(kind: Any) -> dict[str, Field] | None:
    """The fields of a model by name; None if `kind` has none, such as ``int`` or ``list``."""
    kind = get_origin(kind) if dataclasses.is_dataclass(get_origin(kind)) else kind
    if not isinstance(kind, type):
        return None
    infos = None
    if issubclass(kind, BaseModel):
        infos = kind.model_fields
    elif dataclasses.is_dataclass(kind):
        infos = getattr(kind, "__pydantic_fields__", None)
        if infos is None:
            return _dataclass_fields(kind)
    elif is_typeddict(kind) or (issubclass(kind, tuple) and hasattr(kind, "_fields")):
        optional = getattr(kind, "__optional_keys__", getattr(kind, "_field_defaults", ()))
        return {
            name: _plain_field(name, hint, required=name not in optional)
            for name, hint in _hints(kind).items()
        }
    if infos is None:
        return None
    return {name: _pydantic_field(name, info) for name, info in infos.items()}


def arms_of(kind: Any) -> tuple[Any, ...] | None:
    """The types of a union but None; None if it is no union."""
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(arm for arm in get_args(kind) if arm is not types.NoneType)
    return None


def items_of(kind: Any) -> tuple[Any, ...] | None:
    """The types of the items of a list, set or tuple, the last one for all others; else None."""
    origin = get_origin(kind) or kind
    if not isinstance(origin, type) or issubclass(origin, str | bytes | bytearray | Mapping):
        return None
    if not (issubclass(origin, Collection) or origin is Iterable) or hasattr(origin, "_fields"):
        return None
    arguments = tuple(a for a in get_args(kind) if a is not Ellipsis)
    return arguments or (Any,)


def values_of(kind: Any) -> Any:
    """The type of the values of a dict; None if it is no dict."""
    origin = get_origin(kind) or kind
    if not isinstance(origin, type) or not issubclass(origin, Mapping):
        return None
    arguments = get_args(kind)
    return arguments[1] if len(arguments) == 2 else Any


def part_of(kind: Any, name: str) -> tuple[str, Any]:
    """What a new key calls the part `name` of a type, and the type of that part.

    Raises:
        Unsupported: no key alone says it.
    """
    for arm in map(unwrapped, arms_of(kind) or (kind,)):
        fields, items, values = fields_of(arm), items_of(arm), values_of(arm)
        if fields is not None and name in fields:
            if not fields[name].names:
                raise Unsupported(f"{shown(name)} is taken from an alias path; put what is there")
            return fields[name].input, unwrapped(fields[name].annotation)
        if items is not None and name.isdecimal():
            return name, unwrapped(items[min(int(name), len(items) - 1)])
        if values is not None:
            return name, unwrapped(values)
    return name, Any


def _is_root_model(kind: type) -> bool:
    return issubclass(kind, BaseModel) and getattr(kind, "__pydantic_root_model__", False)


def _pydantic_field(name: str, info: Any) -> Field:
    alias = info.validation_alias if info.validation_alias is not None else info.alias
    choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
    texts = [choice for choice in choices if isinstance(choice, str)]
    names = frozenset({name, *texts} if texts or alias is None else ())
    required = info.is_required()
    default = None if required or info.default_factory else info.default
    paths = tuple(tuple(map(str, one.path)) for one in choices if isinstance(one, AliasPath))
    named = texts[0] if texts else name
    return Field(name, named, names, info.annotation, required, default, paths)


def _plain_field(name: str, annotation: Any, *, required: bool, default: Any = None) -> Field:
    return Field(name, name, frozenset({name}), annotation, required, default)


def _dataclass_fields(kind: type) -> dict[str, Field]:
    hints, missing = _hints(kind), dataclasses.MISSING
    found = {}
    for field in dataclasses.fields(kind):
        if field.init:
            required = field.default is missing and field.default_factory is missing
            default = None if field.default is missing else field.default
            found[field.name] = _plain_field(
                field.name, hints[field.name], required=required, default=default
            )
    return found


def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)
