"""Watches one key of a bucket of many and says what memory that takes."""

from __future__ import annotations

import gc
from threading import Event

import psutil

from datastream import Store
from datastream.sources.s3 import S3Source
from datastream.testing import Recorder, Spy
from tests.bench.child import answer_requests

_STORES: list[tuple[Store, Recorder]] = []


def watch(url: str, bucket: str) -> int:
    """Watch one key; the resident memory once all names have been listed for it twice."""
    spy = Spy(S3Source(bucket, endpoint_url=url, key="test", secret="test", interval=3600))
    store = Store(spy)
    recorder = Recorder(store, match="**/000001.txt")
    recorder.wait_ready()
    _STORES.append((store, recorder))
    pause = Event()
    while spy.reads < 2 or not spy.waiting.is_set():
        pause.wait(0.01)
    return _resident()


def _resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    answer_requests({"watch": watch})
