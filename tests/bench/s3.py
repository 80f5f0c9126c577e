"""What a bucket costs: requests of a look, time of a first snapshot, memory of what is listed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

import s3fs

from datastream import Store
from datastream.sources.s3 import S3Source
from datastream.testing import Recorder, Spy
from tests.bench.child import Child
from tests.bench.figures import Effort, Figure, noted, take_turns
from tests.servers.s3 import CREDENTIALS
from tests.servers.s3_proxy import Proxy

KEYS, CHANGED, PAGE = 10_000, 100, 1000
WATCHED = "**/000*"
"""A thousand of them."""
OBJECTS, SIZE = 2000, 1024
LISTED, LONG_PAGE = 100_000, 10_000
ROUNDS = 3
"""Of the snapshots: a server in Python takes seconds for each."""
WANTED_RATIO = 1.2
WANTED_BYTES = 300
TIMEOUT = 60.0


def s3(effort: Effort) -> Iterator[Figure]:
    """moto's server in a process of its own, with a proxy here that counts."""
    yield from _requests(effort)
    yield _snapshot(effort)
    yield _memory(effort)


def _requests(effort: Effort) -> Iterator[Figure]:
    keys = effort.of(KEYS)
    with Child("s3_server") as server, Proxy(server.ask("url")) as proxy:
        bucket = server.ask("bucket", keys, SIZE)
        spy = Spy(S3Source(bucket, endpoint_url=proxy.url, interval=3600, **CREDENTIALS))
        with Store(spy) as store:
            # Not all: their first snapshot is another figure. Everything is listed for it.
            recorder = Recorder(store, match=WATCHED)
            recorder.wait_ready()
            _at_rest(spy, 2)
            pages = -(-keys // PAGE)
            yield _look(store, spy, proxy, f"{keys:,} keys, none changed", pages, 0)
            server.ask("change", bucket, 0, CHANGED, SIZE)
            yield _look(store, spy, proxy, f"{keys:,} keys, {CHANGED} changed", pages, CHANGED)


def _look(store: Store, spy: Spy, proxy: Proxy, what: str, lists: int, gets: int) -> Figure:
    proxy.forget()
    reads = spy.reads
    store.refresh()
    _at_rest(spy, reads + 1)
    counts = dict(proxy.counts)
    total = sum(counts.values())
    return Figure(
        name=f"s3: one look at {what}",
        unit="requests",
        ours=total,
        floor=lists + gets,
        ratio=total / (lists + gets),
        wanted=f"{lists} lists, {gets} gets",
        ok=(counts.get("list"), counts.get("get", 0), total) == (lists, gets, lists + gets),
        note=f"counted: {counts}",
    )


def _at_rest(spy: Spy, reads: int) -> None:
    """After so many reads it waits again."""
    pause, until = Event(), time.perf_counter() + TIMEOUT
    while spy.reads < reads or not spy.waiting.is_set():
        if time.perf_counter() > until:
            raise RuntimeError("the store never looked")
        pause.wait(0.01)


def _snapshot(effort: Effort) -> Figure:
    objects = effort.of(OBJECTS)
    with Child("s3_server") as server:
        url, bucket = server.ask("url"), server.ask("bucket", objects, SIZE)
        with _plain(url) as system, _store(url, bucket) as store:

            def ours() -> float:
                start = time.perf_counter()
                assert len(store.snapshot()) == objects
                return time.perf_counter() - start

            def floor() -> float:
                start = time.perf_counter()
                assert len(system.cat(system.find(bucket))) == objects
                return time.perf_counter() - start

            few = effort._replace(rounds=ROUNDS if effort.share == 1 else 1)
            rounds = take_turns(few, ours, floor, warm_up=False)
    return noted(
        rounds.figure(
            f"s3: snapshot of {objects:,} objects of {SIZE} B",
            "s",
            f"≤ {WANTED_RATIO:g} x",
            lambda ratio: ratio <= WANTED_RATIO,
        ),
        "the floor is s3fs's own find and concurrent cat",
    )


@contextmanager
def _plain(url: str) -> Iterator[s3fs.S3FileSystem]:
    system = s3fs.S3FileSystem(
        endpoint_url=url, use_listings_cache=False, skip_instance_cache=True, **CREDENTIALS
    )
    yield system
    system.close_session(system.loop, system._s3creator)


def _store(url: str, bucket: str) -> Store:
    return Store(S3Source(bucket, endpoint_url=url, **CREDENTIALS))


def _memory(effort: Effort) -> Figure:
    listed = effort.of(LISTED)
    # Longer pages than Amazon's: the server takes a second for each, however long.
    os.environ["MOTO_S3_DEFAULT_MAX_KEYS"] = str(LONG_PAGE)
    try:
        with Child("s3_server") as server, Child("s3_watcher") as watcher:
            url = server.ask("url")
            # The first pays for what is there once, such as what reading pages takes.
            before, after = (
                float(watcher.ask("watch", url, server.ask("bucket", count, 2)))
                for count in (3 * LONG_PAGE, listed)
            )
            kept = (after - before) / listed
    finally:
        del os.environ["MOTO_S3_DEFAULT_MAX_KEYS"]
    return Figure(
        name=f"s3: memory with 1 key watched, {listed:,} listed",
        unit="B/key",
        ours=kept,
        wanted=f"≤ {WANTED_BYTES} B",
        ok=kept <= WANTED_BYTES,
        note="resident, after the first look",
    )
