"""Opening stores, and the transport that may not be installed."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import datastream


def open_existing(url: str, *, watched: bool = False) -> datastream.Store:
    """The store at `url`; a database that is not there is an error, not created."""
    options = {"create": False} if _scheme(url) == "sqlite" else {}
    return open_store(url, watched=watched, **options)


def open_store(url: str, *, watched: bool = False, **options: Any) -> datastream.Store:
    """The store at `url`; how a first clone proceeds is shown on a terminal.

    Args:
        watched: for more than one answer.
    """
    if not watched and _scheme(url) in ("postgresql", "postgres"):
        # What only a watch needs is not installed in a server's database for less.
        options["triggers"] = False
    if not (_scheme(url).startswith("git+") and sys.stderr.isatty()):
        return datastream.open(url, **options)
    from datastream.cli import _terminal

    with _terminal.progress("cloning") as tell:
        return datastream.open(url, **options, progress=tell)


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
        raise ImportError(
            f'serving needs an extra: pip install "datastream-kv[grpc]" ({error})'
        ) from error
