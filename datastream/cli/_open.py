"""Opening stores, and the transport that may not be installed."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import datastream


def open_existing(url: str, *, watched: bool = False) -> datastream.Store:
    """The store at `url`; a database that is not there is an error, not created.

    Args:
        watched: for more than one answer.
    """
    options: dict[str, Any] = {"create": False} if _scheme(url) == "sqlite" else {}
    return datastream.open(url, **options, **({} if watched else _lightly(url)))


def open_once(url: str) -> datastream.Store:
    """The store at `url`, for one answer."""
    return datastream.open(url, **_lightly(url))


def _lightly(url: str) -> dict[str, Any]:
    # What only a watch needs is not installed in a server's database for less.
    return {"triggers": False} if _scheme(url) in ("postgresql", "postgres") else {}


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
