"""URLs of stores: taken apart, shown without secrets, their options given types."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, unquote, unquote_plus

from datastream._options import (
    CodeOnly,
    Count,
    Days,
    Given,
    Limits,
    Program,
    Seconds,
    checks_options,
    expanded,
    text_as,
    typed_options,
    unknown_option,
)
from datastream._secrets import MASK, Secrets, hide, names_secret, secrets_in
from datastream.errors import DatastreamError, printable

__all__ = [
    "CodeOnly",
    "Count",
    "Days",
    "Given",
    "Limits",
    "Location",
    "Program",
    "Seconds",
    "check_port",
    "checks_options",
    "configured",
    "expanded",
    "parse",
    "secrets_of",
    "shown",
    "text_as",
    "unescaped",
    "unknown_option",
]

T = TypeVar("T")

LOCAL = frozenset(("sqlite", "file", "local", "git", "env", "memory"))
"""Schemes whose place has no user: what looks like one is a part of a name."""
_NO_USER = frozenset(("github",))
_ACCESS_KEYS = frozenset(("s3", "s3a", "oss", "tos", "tosfs", "oci"))
"""Schemes whose option ``key`` is a credential. Elsewhere it is the column of keys."""

_CHAIN = re.compile("::(?=[A-Za-z][A-Za-z0-9+.-]*://)")
"""Between the URLs of fsspec's chains, such as zip://a.zip::http://host."""


class Location(NamedTuple):
    """A URL in parts."""

    scheme: str
    path: str
    """All between ``scheme:`` and ``?``, as written."""
    options: dict[str, str]
    shown: str
    """The URL without passwords and tokens: for `repr`, logs and error texts."""

    def __repr__(self) -> str:
        return f"Location({self.shown!r})"


def parse(url: str) -> Location:
    """Take `url` apart.

    Raises:
        DatastreamError: no scheme, a fragment, or an option given twice.
    """
    if not isinstance(url, str):
        raise DatastreamError(
            f"a store's URL is text such as 'sqlite:settings.db', not a {type(url).__name__}"
        )
    scheme, colon, rest = url.partition(":")
    if not colon or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        raise DatastreamError(
            f"{shown(url)!r} is no store URL; write scheme:place, such as {_guess(url)}"
        )
    scheme = scheme.lower()
    if _is_misread(scheme, rest):
        raise DatastreamError(
            f"{scheme}: the user or password holds a '/', '?' or '#'; write them as %2F, %3F and "
            "%23, or give it as an option in code"
        )
    if not url.isprintable():
        raise DatastreamError(f"{shown(url)!r} holds characters that do not print; remove them")
    if "#" in rest:
        raise DatastreamError(
            f"{shown(url)!r} has a '#'; options follow a '?', as in sqlite:settings.db?table=NAME, "
            "and a '#' in a name is written %23"
        )
    path, _, query = rest.partition("?")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        raise DatastreamError(f"{shown(url)!r} has an option that is no UTF-8") from None
    options = dict(pairs)
    if len(options) < len(pairs):
        raise DatastreamError(f"{shown(url)!r} gives an option twice; give each once")
    return Location(scheme, path, options, shown(url))


def unescaped(place: str) -> str:
    """A path or name with the two characters that no URL holds as they are."""
    return place.replace("%23", "#").replace("%3F", "?").replace("%3f", "?")


def _guess(url: str) -> str:
    """What might have been meant by a place without a scheme."""
    if "@" in url or not re.fullmatch(r"[\w./~-]+", url):
        return "sqlite:settings.db"
    if url.endswith((".db", ".sqlite", ".sqlite3")):
        return f"sqlite:{url}"
    return f"file:{url}" if "/" in url or "." in url else f"sqlite:{url}.db"


def _is_misread(scheme: str, rest: str) -> bool:
    """Whether a part of a user or password would be taken for a path, an option or a fragment."""
    rest, *others = _CHAIN.split(rest)
    if any(_is_misread(*other.split(":", maxsplit=1)) for other in others):
        return True
    if not rest.startswith("//") or scheme in LOCAL:
        return False
    authority = re.split("[/?#]", rest[2:], maxsplit=1)[0]
    port = authority.rpartition(":")[2] if ":" in authority else ""
    later = rest[2 + len(authority) :]
    name = re.search("[?#]([^=]*)", later)
    if name is not None and "@" in name[1]:
        # No option's name holds one.
        return True
    if authority.startswith("arn:") or "@" in authority or "@" not in later:
        return False
    return bool(port) and not port.isdecimal()


def shown(url: str) -> str:
    """`url` without the user's password and the values of options that name secrets."""
    scheme, colon, rest = url.partition(":")
    scheme = scheme.lower()
    is_url = bool(colon) and re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme) is not None
    if not is_url or _is_misread(scheme, rest):
        # No telling what is a name: all that could be one goes.
        before, at, after = url.rpartition("@")
        start = re.match(r"(?:[A-Za-z0-9+.-]*:)?(?://)?[^:/@?#]*", before)
        return f"{start[0] if start else ''}:{MASK}@{after}" if at and ":" in before else hide(url)
    if scheme not in LOCAL and "@" in rest and not rest.startswith("//"):
        # A user with a password where a scheme should be, or no slashes before them.
        return f"{scheme}:{MASK}@{rest.rpartition('@')[2]}"
    place, mark, query = rest.partition("?")
    if _lone_user(scheme, place):
        place = re.sub(r"^//[^/]+@", f"//{MASK}@", place)
    if scheme not in LOCAL and scheme not in _NO_USER:
        # Up to the last "@": a password may hold what should have been encoded.
        place = re.sub(r"^(//[^/@:]*):.*@", rf"\1:{MASK}@", place)
        place = re.sub(r"(::[^:/]+://[^/@:]*):.*@", rf"\1:{MASK}@", place)
    pairs = "&".join(_shown_option(scheme, pair) for pair in query.split("&"))
    return f"{url[: len(scheme)]}:{place}{mark}{pairs}"


def _shown_option(scheme: str, pair: str) -> str:
    name, equals, value = pair.partition("=")
    plain = unquote_plus(value)
    is_secret = bool(value) and _is_secret(scheme, unquote_plus(name))
    if not is_secret and "://" in plain:
        # A URL of its own, such as a server's.
        is_secret = shown(plain) != plain
    return f"{name}{equals}{MASK}" if is_secret or hide(plain) != plain else pair


def _is_secret(scheme: str, name: str) -> bool:
    return names_secret(name) or (name == "key" and scheme in _ACCESS_KEYS)


def _lone_user(scheme: str, place: str) -> str:
    """A user without a password, or with one that says so, which over HTTP is a token."""
    found = re.match(r"//([^/:]+)(?::(?:x-oauth-basic)?)?@(?![^/]*@)", place)
    return found[1] if found and scheme.endswith(("http", "https")) else ""


def secrets_of(location: Location, options: Mapping[str, Any]) -> Secrets:
    """What must not be shown of a URL and of the options given in code."""
    return Secrets([*_secrets_in_url(location), *_secrets_in_code(location.scheme, options)])


def _secrets_in_url(location: Location) -> Iterator[str]:
    scheme, path = location.scheme, location.path
    yield from _secrets_in_code(scheme, location.options)
    yield _lone_user(scheme, path)
    if scheme in LOCAL or scheme in _NO_USER:
        return
    if "@" in path and not path.startswith("//"):
        yield path.rpartition("@")[0]
    for part in _CHAIN.split(path):
        # With and without what may be the beginning of the path.
        for pattern in (r"^(?:[^/]*:)?(?://)?[^/@:]*:(.*)@", r"//[^/@:]*:([^/]*)@"):
            found = re.search(pattern, part)
            if found:
                yield found[1]


def _secrets_in_code(scheme: str, options: Mapping[str, Any]) -> Iterator[str]:
    yield from secrets_in(options)
    if scheme in _ACCESS_KEYS and isinstance(options.get("key"), str):
        yield options["key"]


def check_port(location: Location) -> None:
    """Refuse a place whose port is none, before a library guesses.

    Raises:
        DatastreamError: a port is no number from 1 to 65535.
    """
    authority = location.path.removeprefix("//").partition("/")[0].rpartition("@")[2]
    for host in authority.split(","):
        port = host.rpartition("]")[2].partition(":")
        number = unquote(port[2])
        is_port = number.isascii() and number.isdecimal() and 0 < int(number[:6]) < 1 << 16
        if port[1] and not is_port:
            raise DatastreamError(
                f"{location.shown!r} has no port {printable(number)!r}; it is a number from 1 to "
                "65535"
            )


def configured(factory: Callable[..., T], location: Location, options: Mapping[str, Any]) -> T:
    """Call `factory` with the options of the URL and those of code, typed by its annotations.

    Its keyword-only parameters are the options that there are. Others are passed on as they are,
    if it takes any (``**options``).

    Raises:
        DatastreamError: an option the factory does not have, or a value that is not of its type.
    """
    return factory(**typed_options(factory, location.shown, location.options, options))
