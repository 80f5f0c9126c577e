"""Opening stores, and the transport that may not be installed."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import datastream


def open_existing(url: str, *, watched: bool = False) -> datastream.Store:
    """The store at `url`; a database that is not there is an error, not created.

    Args:
        watched: for more than one answer. Otherwise nothing is installed in a server's database
            that only watching needs; a file of SQLite's is opened as ever.
    """
    scheme = url.partition(":")[0].lower()
    options: dict[str, Any] = {"create": False} if scheme == "sqlite" else {}
    if scheme in ("postgresql", "postgres") and not watched:
        options["triggers"] = False
    return datastream.open(url, **options)


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
