"""From a URL to a Store: which scheme is served by what, loaded when first opened."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from datastream.errors import DatastreamError
from datastream.source import Source
from datastream.store import Store
from datastream.url import Location, parse

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
    "grpc": _Row("datastream_grpc.source:open_grpc", "grpc"),
    "grpcs": _Row("datastream_grpc.source:open_grpc", "grpc"),
}
_DOCUMENT = _Row("datastream._documents:open_document")
_FILESYSTEM = _Row("datastream.sources.filesystem:open_filesystem")


def open(url: str, **options: Any) -> Store:
    """The store that `url` names.

    ``memory:``, ``memory:NAME`` · ``sqlite:PATH?table=…`` · ``postgresql://HOST/DATABASE?table=…``
    · ``git:PATH``, ``git+https://…``, ``git+ssh://…`` · ``file:PATH``, ``file:settings.toml`` ·
    ``env:PREFIX`` · ``s3://BUCKET/PREFIX`` · ``grpc://HOST:PORT`` · every scheme that an installed
    package offers under the entry point group ``datastream.sources`` · and every filesystem that
    fsspec knows.

    Args:
        url: scheme, place and, after ``?``, options as text.
        options: those of the Source's constructor; they win over what the URL says. Give
            secrets here, not in the URL.

    Raises:
        DatastreamError: malformed URL, unknown scheme or option, or the backend's own complaint.
        ImportError: the scheme needs an extra that is not installed; the text says which.
    """
    location = parse(url)
    factory = _factory(location)
    source = factory(location, **options)
    return Store(source, name=location.shown)


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
        known = {*_BUILT_IN, *(point.name for point in _plugins()), *filesystems}
        raise DatastreamError(
            f"no source for {location.scheme!r} in {_unnamed(location)!r}; "
            f"known are {', '.join(sorted(known))}"
        )
    return location.scheme


def _unnamed(location: Location) -> str:
    """The URL of an unknown scheme, which may be a user whose password follows."""
    head, at, tail = location.shown.rpartition("@")
    return location.shown if "//" in head or not at else f"{location.scheme}:***@{tail}"


def _load(row: _Row, scheme: str) -> Callable[..., Source]:
    module, _, name = row.target.partition(":")
    try:
        factory: Callable[..., Source] = getattr(importlib.import_module(module), name)
    except ImportError as error:
        if not row.extra:
            raise
        raise ImportError(
            f'{scheme}: needs an extra: pip install "datastream-kv[{row.extra}]" ({error})'
        ) from error
    return factory
