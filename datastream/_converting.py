"""What `as_` and the model of a binding are: called, or validated by pydantic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any, cast, get_origin

from datastream.errors import InvalidValue

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Convert = Callable[[Any], Any]


def converter(as_: Any) -> Convert | None:
    """What is called with each decoded value, None for nothing.

    Raises:
        InvalidValue: `as_` is neither a function nor a type.
        ImportError: it takes pydantic, which is not installed.
    """
    if as_ is None:
        return None
    if callable(validate := getattr(as_, "model_validate", None)):
        return cast(Convert, validate)
    if get_origin(as_) is not None or _has_fields(as_):
        # list[int] and a TypedDict can be called, and then take anything; a dataclass and a named
        # tuple take a whole object for their first field.
        return adapter(as_, "as_").validate_python
    if not callable(as_):
        raise InvalidValue("as_ is called with each value: give a function or a type")
    return cast(Convert, as_)


def _has_fields(kind: Any) -> bool:
    """Whether this is a TypedDict, a dataclass or a named tuple."""
    if not isinstance(kind, type):
        return False
    return is_dataclass(kind) or hasattr(kind, "__required_keys__") or hasattr(kind, "_fields")


def adapter(kind: Any, what: str) -> TypeAdapter[Any]:
    """Pydantic's adapter of a type that `what` was given.

    Raises:
        InvalidValue: pydantic makes none; the text says why.
        ImportError: it is not installed.
    """
    with needs_pydantic(what):
        from pydantic import TypeAdapter
    try:
        return TypeAdapter(kind)
    except Exception as error:
        # Pydantic has several errors for this; for what is no type at all, Python's own.
        reason = str(error).partition("\n")[0].strip()
        raise InvalidValue(
            f"pydantic makes no model of what {what} was given: give a BaseModel, a dataclass, "
            f"a TypedDict or another type{reason and f' ({reason})'}"
        ) from error


@contextmanager
def needs_pydantic(what: str) -> Iterator[None]:
    """Around an import of pydantic: say what to install if it is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("pydantic", "pydantic_core"):
            raise
        raise ImportError(
            f'{what} needs pydantic: pip install "datastream-kv[settings]"'
        ) from error
