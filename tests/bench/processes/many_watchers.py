"""Watches many keys in one process and says what memory that takes."""

from __future__ import annotations

import gc

import psutil

import datastream
from datastream import Entry
from tests.bench.child import answer_requests

WARM_UP = 200
"""Watchers whose memory does not count: they pay for what is there once."""


def bytes_per_watcher(watchers: int) -> float:
    """Resident memory that each of `watchers` adds, all of them on keys of their own."""
    keys = [f"key/{n}" for n in range(watchers)]
    with datastream.open("memory:") as store:
        store.put_many(dict.fromkeys(keys, b"value"))
        watches = [store.watch(f"warm/{n}").subscribe(_ignore) for n in range(WARM_UP)]
        before = _resident()
        watches += [store.watch(key).subscribe(_ignore) for key in keys]
        return (_resident() - before) / watchers


def _ignore(entry: Entry) -> None:
    pass


def _resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    answer_requests({"bytes_per_watcher": bytes_per_watcher})
