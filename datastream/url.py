"""URLs of stores: taken apart, shown without secrets, their options given types."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl

from datastream.errors import DatastreamError

T = TypeVar("T")

_SECRET = re.compile(
    r"pas+|pwd|secret|token|credential|sig|auth|api_?key|access_?key", re.IGNORECASE
)


class Location(NamedTuple):
    """A URL in parts."""

    scheme: str
    path: str
    """All between ``scheme:`` and ``?``, as written."""
    options: dict[str, str]
    shown: str
    """The URL without passwords and tokens: for `repr`, logs and error texts."""


def parse(url: str) -> Location:
    """Take `url` apart.

    Raises:
        DatastreamError: no scheme, or an option given twice.
    """
    scheme, colon, rest = url.partition(":")
    if not colon or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        raise DatastreamError(
            f"{shown(url)!r} is no store URL; write scheme:place, such as sqlite:settings.db"
        )
    path, _, query = rest.partition("?")
    _check_password(scheme, path)
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    if len(options) < len(pairs):
        raise DatastreamError(f"{shown(url)!r} gives an option twice; give each once")
    return Location(scheme.lower(), path, options, shown(url))


def _check_password(scheme: str, path: str) -> None:
    """Refuse a password that would be taken for a part of host and path, and shown as such."""
    authority, _, rest = path.removeprefix("//").partition("/")
    port = authority.rpartition(":")[2] if ":" in authority else ""
    misread = port and not port.isdecimal() and "@" in rest and "@" not in authority
    if path.startswith("//") and misread:
        raise DatastreamError(
            f"{scheme}: a '/' stands in the password; write it as %2F, or give it as an option"
        )


def shown(url: str) -> str:
    """`url` without the user's password and the values of options that name secrets."""
    # Up to the last "@" before the options: a password may hold what should have been encoded.
    place, mark, options = url.partition("?")
    url = re.sub(r"(//[^/#@:]*):.*@", r"\1:***@", place) + mark + options
    # A lone user of git over HTTP is a token.
    url = re.sub(r"^(git\+https?://)[^/?#@:]+@", r"\1***@", url, flags=re.IGNORECASE)
    return re.sub(
        r"([?&])([^=&]+)=([^&]*)",
        lambda m: f"{m[1]}{m[2]}={'***' if _SECRET.search(m[2]) else m[3]}",
        url,
    )


def configured(factory: Callable[..., T], location: Location, options: dict[str, Any]) -> T:
    """Call `factory` with the options of the URL, typed by its annotations, and those of code.

    Options it has no name for are passed on as text if it takes any (``**options``).

    Raises:
        DatastreamError: an option the factory does not have, or text that is not of its type.
    """
    known = inspect.signature(factory).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in known.values())
    for name in (*location.options, *options):
        parameter = known.get(name)
        if parameter is None and takes_any and not get_close_matches(name, known, cutoff=0.8):
            continue
        if parameter is None or parameter.kind is not parameter.KEYWORD_ONLY:
            names = sorted(n for n, p in known.items() if p.kind is p.KEYWORD_ONLY)
            raise DatastreamError(
                f"{location.shown!r} has no option {name!r}; it takes {', '.join(names) or 'none'}"
            )
    types = _option_types(factory)
    typed = {
        name: _typed(text, types.get(name, ""), name, location)
        for name, text in location.options.items()
    }
    return factory(**{**typed, **options})


def _option_types(factory: Callable[..., Any]) -> dict[str, str]:
    """The annotation of each option, such as ``bool | None``, as it is written."""
    while isinstance(factory, partial):
        factory = factory.func
    function = vars(factory)["__init__"] if isinstance(factory, type) else factory
    annotations = inspect.get_annotations(function)
    return {
        name: kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))
        for name, kind in annotations.items()
    }


def _typed(text: str, annotation: str, name: str, location: Location) -> Any:
    """The text of an option as its annotation wants it; what takes text takes it as it is."""
    kinds = [kind.strip() for kind in annotation.split("|")]
    kind = next((kind for kind in ("bool", "int", "float") if kind in kinds), "")
    if not kind or "str" in kinds:
        return text
    try:
        return _READERS[kind](text)
    except (KeyError, ValueError):
        raise DatastreamError(
            f"option {name} of {location.shown!r} wants a {kind}, not {text!r}"
        ) from None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


_READERS: dict[str, Callable[[str], Any]] = {
    "bool": lambda text: {"true": True, "1": True, "false": False, "0": False}[text.lower()],
    "int": int,
    "float": _finite,
}
