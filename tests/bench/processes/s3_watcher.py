"""Watches one key of a bucket of many and says what memory that takes."""

from __future__ import annotations

import gc

import psutil

from datastream import Store
from datastream.sources.s3 import S3Source
from datastream.testing import Recorder
from tests.bench.child import answer_requests


def kept_bytes(url: str, small: str, large: str) -> int:
    """Resident memory that a watch of one key adds, all names of `large` being listed for it.

    A watch on `small` before it pays for what is there once.
    """
    watches = [_watch(url, small)]
    before = _resident()
    watches.append(_watch(url, large))
    kept = _resident() - before
    for store, _ in watches:
        store.close()
    return kept


def _watch(url: str, bucket: str) -> tuple[Store, Recorder]:
    source = S3Source(bucket, endpoint_url=url, key="test", secret="test", interval=3600)
    store = Store(source)
    recorder = Recorder(store, match="**/000001.txt")
    recorder.wait_ready()
    return store, recorder


def _resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    answer_requests({"kept_bytes": kept_bytes})
