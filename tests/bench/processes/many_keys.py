"""Holds many float keys of a file in one process, in a dict or a view, and says what that takes."""

from __future__ import annotations

import gc
import sqlite3
import tracemalloc
from collections.abc import Callable

import psutil

import datastream
from datastream import codecs
from tests.bench.child import answer_requests

_held: list[object] = []
SELECT = "SELECT key, CAST(value AS BLOB), value_type FROM data"


def dict_memory(path: str) -> list[int]:
    """What a dict of the decoded values adds: bytes that Python holds, and resident memory."""
    connection = sqlite3.connect(path)
    connection.execute("SELECT count(*) FROM data").fetchone()
    return _added(lambda: _decoded(connection))


def view_memory(path: str) -> list[int]:
    """The same for a view, with all that its store keeps for it."""
    # A view that is dropped lives on for a moment, and another one of its store would share it.
    stores = [datastream.open(f"sqlite:{path}") for _ in range(2)]
    for store in stores:
        store.view("none/")
    return _added(lambda: stores.pop().view())


def _decoded(connection: sqlite3.Connection) -> dict[str, float]:
    rows = connection.execute(SELECT)
    return {key: codecs.decode(value, kind, key=key) for key, value, kind in rows}


def _added(make: Callable[[], object]) -> list[int]:
    # Resident memory first: counting takes some itself.
    before = _resident()
    made = make()
    resident = _resident() - before
    del made
    gc.collect()
    tracemalloc.start()
    _held.append(make())
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return [held, resident]


def _resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    answer_requests({"dict": dict_memory, "view": view_memory})
