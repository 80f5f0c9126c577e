"""From a URL to a Store: which scheme is served by what, loaded when first opened."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from datastream._secrets import hide_in
from datastream.errors import DatastreamError, shown
from datastream.source import Source
from datastream.store import Store
from datastream.url import Location, parse, secrets_of

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

GROUP = "datastream.sources"
"""Entry point group: name = scheme, value = a function ``(location, **options) -> Source``."""


class _Row(NamedTuple):
    target: str
    extra: str = ""


# Sources named by their import path: importing datastream loads none of them.
_BUILT_IN = {
    "memory": _Row("datastream.sources.memory:open_memory"),
    "file": _Row("datastream.sources.files:open_files"),
    "local": _Row("datastream.sources.files:open_files"),
    "s3": _Row("datastream.sources.s3:open_s3", "s3"),
    "s3a": _Row("datastream.sources.s3:open_s3", "s3"),
    "sqlite": _Row("datastream.sources.sqlite:open_sqlite"),
    "postgresql": _Row("datastream.sources.postgres:open_postgres", "postgres"),
    "postgres": _Row("datastream.sources.postgres:open_postgres", "postgres"),
    "git": _Row("datastream.sources.git:open_git"),
    "git+file": _Row("datastream.sources.git:open_git"),
    "git+http": _Row("datastream.sources.git:open_git"),
    "git+https": _Row("datastream.sources.git:open_git"),
    "git+ssh": _Row("datastream.sources.git:open_git"),
    "env": _Row("datastream.sources.env:open_env"),
    "nats": _Row("datastream.sources.nats:open_nats", "nats"),
    "grpc": _Row("datastream_grpc.source:open_grpc", "grpc"),
    "grpcs": _Row("datastream_grpc.source:open_grpc", "grpc"),
}
_COMMON = (
    *("memory", "sqlite", "postgresql", "git", "git+https", "file", "env"),
    *("s3", "nats", "grpc"),
)
_FILESYSTEMS = "gs, az, sftp, http, zip"
_DOCUMENT = _Row("datastream._documents:open_document")
_FILESYSTEM = _Row("datastream.sources.filesystem:open_filesystem")


def open(url: str, **options: Any) -> Store:
    """The store that `url` names.

    ``memory:``, ``memory:NAME`` · ``sqlite:PATH?table=…`` · ``postgresql://HOST/DATABASE?table=…``
    · ``git:PATH``, ``git+https://…``, ``git+ssh://…`` · ``file:PATH``, ``file:settings.toml`` ·
    ``env:PREFIX`` · ``s3://BUCKET/PREFIX`` · ``nats://HOST:PORT/BUCKET`` · ``grpc://HOST:PORT`` ·
    every scheme that an installed package offers under the entry point group
    ``datastream.sources`` · and every filesystem that fsspec knows.

    Args:
        url: scheme, place and, after ``?``, options as text.
        options: those of the Source's constructor; they win over what the URL says. Give
            secrets here, not in the URL.

    Raises:
        DatastreamError: malformed URL, unknown scheme or option, or the backend's own complaint.
        ImportError: the scheme needs an extra that is not installed; the text says which.
    """
    location = parse(url)
    return Store(_opened(_factory(location), location, options), name=location.shown)


def _opened(factory: Callable[..., Source], location: Location, options: dict[str, Any]) -> Source:
    secrets = secrets_of(location, options)
    try:
        source = factory(location, **options)
    except (DatastreamError, ImportError) as error:
        failure: BaseException = hide_in(error, secrets)
    except Exception as error:  # noqa: BLE001
        failure = DatastreamError(
            f"{location.shown!r}: unexpected {type(error).__name__}: {error}; this is a bug in the "
            "source, please report it with its traceback"
        )
        failure.__cause__ = hide_in(error, secrets)
        hide_in(failure, secrets)
    else:
        # As long as the source lives, its errors may show them.
        source.secrets = secrets
        return source
    raise failure


def check(url: str) -> None:
    """Refuse a URL that no store can have, without opening anything.

    Raises:
        DatastreamError: malformed, or of an unknown scheme.
        ImportError: the scheme needs an extra that is not installed.
    """
    _factory(parse(url))


def _factory(location: Location) -> Callable[..., Source]:
    row = _BUILT_IN.get(location.scheme)
    if location.scheme in ("file", "local") and _is_document(location):
        row = _DOCUMENT
    if row is not None and not _is_filesystem(location):
        return _load(row, location.scheme)
    for point in _plugins().select(name=location.scheme):
        factory: Callable[..., Source] = point.load()
        return factory
    return _load(_FILESYSTEM, _known_filesystem(location))


def _plugins() -> EntryPoints:
    # To import that takes a fifth of the time in which datastream is imported.
    from importlib.metadata import entry_points

    return entry_points(group=GROUP)


def _is_document(location: Location) -> bool:
    """``file:settings.toml`` is a document, ``file:conf`` a directory."""
    from datastream._documents import names_document

    return bool(location.path.strip("/")) and names_document(location)


def _is_filesystem(location: Location) -> bool:
    """``memory://…`` is fsspec's, ``memory:NAME`` ours."""
    return location.scheme == "memory" and location.path.startswith("//")


def _known_filesystem(location: Location) -> str:
    from fsspec import available_protocols

    filesystems = available_protocols()
    if location.scheme not in filesystems:
        plugins = [point.name for point in _plugins()]
        meant = _meant(location, [*_BUILT_IN, *plugins, *filesystems])
        known = ", ".join((*_COMMON, *sorted(set(plugins) - {*_COMMON})))
        raise DatastreamError(
            f"no source for {location.scheme!r} in {location.shown!r}; {meant}known are "
            f"{known}, and what fsspec knows, such as {_FILESYSTEMS}"
        )
    return location.scheme


def _meant(location: Location, known: list[str]) -> str:
    """What somebody meant by an unknown scheme, if that can be guessed."""
    scheme, path = location.scheme, location.path
    port = path.partition("/")[0]
    if "@" in path and not path.startswith("//"):
        return ""
    if len(scheme) == 1:
        return f"a path is written file:{scheme}:{shown(path)[1:-1]}; "
    if scheme == "localhost" or "." in scheme or port.isdecimal():
        return "a server is written grpc://host:port; "
    from difflib import get_close_matches

    # Others name the client behind a plus: postgresql+psycopg2, sqlite+aiosqlite.
    near = get_close_matches(scheme.partition("+")[0], known, n=1)
    return f"did you mean {near[0]}? " if near else ""


def _load(row: _Row, scheme: str) -> Callable[..., Source]:
    module, _, name = row.target.partition(":")
    try:
        factory: Callable[..., Source] = getattr(importlib.import_module(module), name)
    except ImportError as error:
        if not row.extra:
            raise
        # A package of ours may have said the same.
        reason = error.__cause__ or error
        raise ImportError(
            f'{scheme}: needs an extra: pip install "datastream-kv[{row.extra}]" ({reason})'
        ) from error
    return factory
