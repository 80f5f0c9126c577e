"""Options of sources: typed by the annotation of the constructor, whether text or value.

What stands in a URL is text; what is given in code may be, if it comes from a file or the
environment. Both get the type that the annotation names, or are refused.
"""

from __future__ import annotations

import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from datastream.errors import DatastreamError, shown

T = TypeVar("T")
Init = TypeVar("Init", bound=Callable[..., None])


class Limits(NamedTuple):
    """The least and the most that a number may be."""

    least: float
    most: float
    unit: str = ""


class CodeOnly(NamedTuple):
    """Marks an option that is not taken from a URL, and says why: others may have written that."""

    reason: str


Seconds = Annotated[float, Limits(0.001, 1_000_000, " seconds")]
"""A time to wait: no loop is to spin, and no system call takes more than some weeks."""
Days = Annotated[float, Limits(0, 100_000, " days")]
Count = Annotated[int, Limits(1, (1 << 31) - 1)]
Program = Annotated[str, CodeOnly("it runs a program")]


class Given(NamedTuple):
    """One option as it was given."""

    name: str
    value: Any
    place: str
    """The URL, for error texts."""
    in_url: bool

    def refuse(self, wanted: str) -> DatastreamError:
        """The error of a value that is not what the option wants."""
        value = self.value
        found = shown(value) if isinstance(value, str) else _described(value)
        return DatastreamError(f"option {self.name} of {self.place!r} wants {wanted}, not {found}")


def typed_options(
    factory: Callable[..., T], place: str, in_url: Mapping[str, str], in_code: Mapping[str, Any]
) -> dict[str, Any]:
    """The options that `factory` gets; those given in code win.

    What it has no name for is passed on as it is, if it takes any (``**options``).

    Raises:
        DatastreamError: an option the factory does not have, or a value that is not of its type.
    """
    known = inspect.signature(factory).parameters
    own = [name for name, parameter in known.items() if parameter.kind is parameter.KEYWORD_ONLY]
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    hints = _hints(factory)
    result: dict[str, Any] = {}
    for is_text, options in ((True, in_url), (False, in_code)):
        for name, value in options.items():
            given = Given(name, value, place, is_text)
            if name in own:
                result[name] = typed(given, hints.get(name, Any))
            elif takes_any and name not in known and not _close(name, own, 0.8):
                result[name] = value
            else:
                raise unknown_option(place, name, own)
    return result


def checks_options(init: Init) -> Init:
    """Decorator of a source's constructor: types its arguments as `configured` types options.

    So those who call it themselves get what a URL gives, or the same errors.
    """
    parameters = list(inspect.signature(init).parameters.values())[1:]
    places = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

    @wraps(init)
    def typing_init(self: object, *args: Any, **options: Any) -> None:
        whose, hints = type(self).__name__, _hints(init)

        def read(name: str, value: Any) -> Any:
            return typed(Given(name, value, whose, in_url=False), hints.get(name, Any))

        first = [read(name, value) for name, value in zip(places, args, strict=False)]
        named = {name: read(name, options.pop(name)) for name in names if name in options}
        others = typed_options(init, whose, {}, options)
        init(self, *first, *args[len(first) :], **named, **others)

    return typing.cast(Init, typing_init)


def unknown_option(
    place: str, name: str, known: Iterable[str], others: Iterable[str] = (), whose: str = ""
) -> DatastreamError:
    """The error for an option that there is not, with the one that was probably meant.

    Args:
        place: the URL.
        name: of the option.
        known: our own options.
        others: those of the library below, which are too many to list.
        whose: what to call those instead.
    """
    names = sorted(known)
    near = _close(name, [*names, *others])
    meant = f"did you mean {near[0]}? " if near else ""
    more = f", and {whose}" if whose else ""
    return DatastreamError(
        f"{place!r} has no option {shown(name)}; {meant}it takes {', '.join(names) or 'none'}{more}"
    )


def text_as(given: Given, example: Any) -> Any:
    """Text as what has no annotation, but a default of that type, wants it.

    Raises:
        DatastreamError: it is not of that type.
    """
    kind = type(example)
    is_plain = isinstance(given.value, str) and kind in (bool, int, float)
    return typed(given, kind) if is_plain else given.value


def typed(given: Given, hint: Any) -> Any:
    """The value of an option as its annotation wants it.

    Raises:
        DatastreamError: it is not of that type.
    """
    kinds, marks = _parts(hint)
    for mark in marks:
        if isinstance(mark, CodeOnly) and given.in_url:
            raise _code_only(given, mark.reason)
    if not kinds or Any in kinds:
        return given.value
    if given.value is None and type(None) in kinds:
        return None
    for kind, reader in _READERS.items():
        if kind in kinds:
            return _within(reader(given, kinds), given, marks)
    if given.in_url:
        raise _code_only(given, "it is no text")
    return _instance(given, kinds)


def _parts(hint: Any) -> tuple[set[Any], list[Any]]:
    """The types of a union, and what `Annotated` says of them."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        kinds, marks = _parts(hint.__origin__)
        return kinds, [*marks, *hint.__metadata__]
    if origin in (typing.Union, types.UnionType):
        parts = [_parts(part) for part in typing.get_args(hint)]
        return set().union(*(kinds for kinds, _ in parts)), [m for _, ms in parts for m in ms]
    return {hint}, []


def _bool(given: Given, kinds: set[Any]) -> bool:
    value = given.value.lower() if isinstance(given.value, str) else given.value
    if not isinstance(value, str | int) or value not in _BOOLS:
        raise given.refuse("true or false")
    return _BOOLS[value]


def _int(given: Given, kinds: set[Any]) -> int:
    value = given.value
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]{1,40}", value):
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise given.refuse("a whole number")
    return value


def _float(given: Given, kinds: set[Any]) -> float:
    value = given.value
    if isinstance(value, str) and re.fullmatch(r"[+-]?[0-9.]{1,400}([eE][+-]?[0-9]{1,9})?", value):
        try:
            value = float(value)
        except ValueError:
            raise given.refuse("a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise given.refuse("a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise given.refuse("a finite number")
    return number


def _path(given: Given, kinds: set[Any]) -> Any:
    if not isinstance(given.value, str | Path):
        raise given.refuse("a path")
    return expanded(str(given.value)) if isinstance(given.value, str) else given.value


def _text(given: Given, kinds: set[Any]) -> Any:
    value = given.value
    origins = {typing.get_origin(kind) for kind in kinds} - {None}
    if Callable in origins and callable(value):
        return value
    several = origins - {Callable}
    if isinstance(value, str):
        if "\0" in value:
            raise given.refuse("text without NUL")
        return value
    if several and isinstance(value, Iterable) and not isinstance(value, bytes | Mapping):
        items = list(value)
        if all(isinstance(item, str) for item in items):
            return items
    raise given.refuse("texts" if several else "text")


def _instance(given: Given, kinds: set[Any]) -> Any:
    """An object of one of `kinds`, as far as it can be told at run time."""
    classes = [typing.get_origin(kind) or kind for kind in kinds]
    for kind in classes:
        try:
            if not isinstance(kind, type) or isinstance(given.value, kind):
                return given.value
        except TypeError:
            # A Protocol that is for type checkers only.
            return given.value
    names = sorted(kind.__name__ for kind in classes if kind is not type(None))
    raise given.refuse(f"a {' or '.join(names)}")


def _within(value: Any, given: Given, marks: list[Any]) -> Any:
    for mark in marks:
        if isinstance(mark, Limits) and not mark.least <= value <= mark.most:
            wanted = f"{mark.least:,.10g} to {mark.most:,.10g}{mark.unit}"
            raise given.refuse(wanted)
    return value


def _code_only(given: Given, reason: str) -> DatastreamError:
    return DatastreamError(
        f"option {given.name} is not taken from a URL, because {reason}; give it in code: "
        f"open(url, {given.name}=…)"
    )


def _described(value: Any) -> str:
    """A value for an error text: numbers as they are, of others the type; they may be secrets."""
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**40):
        return f"{value:.17g}" if isinstance(value, float) else str(value)
    return f"a {type(value).__name__}"


def expanded(path: str) -> str:
    """`path` with ``~`` and ``~user`` replaced by that home directory.

    Raises:
        DatastreamError: there is no such user.
    """
    if not path.startswith("~"):
        return path
    try:
        return str(Path(path).expanduser())
    except RuntimeError:
        user = path.partition("/")[0]
        raise DatastreamError(
            f"{shown(user)} names no home directory; write ./{shown(path)[1:-1]} for a file of "
            "that name"
        ) from None


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    """The annotation of each option."""
    while isinstance(factory, partial):
        factory = factory.func
    function: Any = inspect.unwrap(
        inspect.getattr_static(factory, "__init__") if isinstance(factory, type) else factory
    )
    return {
        name: _resolved(annotation, getattr(function, "__globals__", {}))
        for name, annotation in inspect.get_annotations(function).items()
    }


def _resolved(annotation: Any, names: dict[str, Any]) -> Any:
    """An annotation that may be text; `Any` for one that only type checkers understand."""
    one = types.SimpleNamespace(__annotations__={"option": annotation})
    try:
        return typing.get_type_hints(one, names, include_extras=True)["option"]
    except (NameError, AttributeError, TypeError, SyntaxError):
        return Any


_BOOLS: dict[Any, bool] = {
    **dict.fromkeys(("true", "yes", "on", "1", 1), True),
    **dict.fromkeys(("false", "no", "off", "0", 0), False),
}
# In this order: text would take everything.
_READERS: dict[type, Callable[[Given, set[Any]], Any]] = {
    bool: _bool,
    int: _int,
    float: _float,
    Path: _path,
    str: _text,
}


def _close(name: str, known: Sequence[str], cutoff: float = 0.6) -> list[str]:
    """Those of `known` that are spelled alike, the most alike first."""
    from difflib import get_close_matches

    return get_close_matches(name, known, cutoff=cutoff)
