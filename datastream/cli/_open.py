"""Opening stores, and the transport that may not be installed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import datastream
from datastream.url import parse

SCHEMES = (
    *("sqlite:", "git:", "file:", "local:", "memory:", "env:", "overlay:", "postgresql://"),
    *("s3://", "nats://", "grpc://", "grpcs://", "git+https://", "git+ssh://"),
)
"""What a URL begins with; fsspec has more."""


def is_url(text: str) -> bool:
    """Whether an argument that may also be a key is a URL."""
    return "://" in text or text.lower().startswith(SCHEMES)


def is_overlay(url: str) -> bool:
    """Whether a URL names layers."""
    return _scheme(url) == "overlay"


def open_existing(url: str, *, watched: bool = False) -> datastream.Store:
    """The store at `url`; a database that is not there is an error, not created.

    Unless the URL itself says ``create=true``.
    """
    return open_store(url, watched=watched, create=False)


@contextmanager
def opened_at(url: str, point: str | None) -> Iterator[datastream.Store]:
    """The store at `url`, or as it was at `point`."""
    with open_existing(url) as store:
        if point is None:
            yield store
            return
        with store.at(point) as past:
            yield past


def open_store(url: str, *, watched: bool = False, create: bool = True) -> datastream.Store:
    """The store at `url`; how a first clone proceeds is shown on a terminal.

    Args:
        watched: for more than one answer.
        create: whether a database may be made by opening it.
    """
    if is_overlay(url):
        from datastream.cli._layers import open_layers

        return open_layers(
            url.partition(":")[2],
            lambda layer: _with_options(layer, _options(layer, watched=watched, create=create)),
        )
    options = _options(url, watched=watched, create=create)
    if not (_scheme(url).startswith("git+") and sys.stderr.isatty()):
        return datastream.open(url, **options)
    from datastream.cli import _terminal

    with _terminal.progress("cloning") as tell:
        return datastream.open(url, **options, progress=tell)


def _options(url: str, *, watched: bool, create: bool) -> dict[str, Any]:
    """What a command asks for beyond `url`, which has the last word."""
    options = {}
    if _scheme(url) == "sqlite" and not create:
        options["create"] = False
    if _scheme(url) in ("postgresql", "postgres") and not watched:
        # What only a watch needs is not installed in a server's database for less.
        options["triggers"] = False
    given = parse(url).options if options else {}
    return {name: value for name, value in options.items() if name not in given}


def _with_options(url: str, options: dict[str, Any]) -> str:
    for name, value in options.items():
        url += f"{'&' if '?' in url else '?'}{name}={str(value).lower()}"
    return url


def _scheme(url: str) -> str:
    return url.partition(":")[0].lower()


def load_grpc() -> ModuleType:
    """The package `datastream_grpc`.

    Raises:
        ImportError: its extra is not installed; the text says how to get it.
    """
    try:
        return importlib.import_module("datastream_grpc")
    except ImportError as error:
        reason = error.__cause__ or error
        raise ImportError(
            f'serving needs an extra: pip install "datastream-kv[grpc]" ({reason})'
        ) from error
