"""Fifty threads mix everything on one store: nothing hangs, nothing leaks, all ends."""

import asyncio
import contextlib
import random
import sys
import threading
import time
import traceback

import psutil
import pytest

from datastream import KeyNotFound, RevisionConflict, Store
from datastream.source import Feature
from tests.integration._programs.tools import eventually
from tests.property.history import backends
from tests.property.test_histories import BACKENDS, nats, s3  # noqa: F401  (fixtures)

THREADS = 50
QUICK = ("memory", "listed, one call at a time", "sqlite", "git", "files", "postgres")
SOURCES = (*QUICK, "s3", "nats")
KEYS = [f"k/{n}" for n in range(8)]


@pytest.fixture
def backend(request):
    with backends.closing(BACKENDS[request.param](request)) as backend:
        yield backend


class Crowd:
    """One thread's random doings."""

    def __init__(self, store, seed, until, problems):
        self.store, self.until, self.problems = store, until, problems
        self.random = random.Random(seed)
        self.kept = []
        self.calls = 0

    def run(self):
        doings = [self.read, self.write, self.compare, self.watch, self.listing, self.asynchronous]
        try:
            while not self.calls or time.monotonic() < self.until:
                self.random.choice(doings)()
                self.calls += 1
            for subscription in self.kept:
                subscription.dispose()
        except Exception as error:
            self.problems.append(repr(error))

    def read(self):
        self.store.get(self.random.choice(KEYS))
        self.random.choice([self.store.snapshot, lambda: self.store.snapshot("k/")])()

    def write(self):
        key = self.random.choice(KEYS)
        if self.random.random() < 0.3:
            self.store.delete(key, missing_ok=True)
        elif Feature.ATOMIC in self.store.features and self.random.random() < 0.3:
            self.store.put_many({k: self.random.random() for k in self.random.sample(KEYS, 3)})
        else:
            self.store[key] = self.random.random()

    def compare(self):
        key = self.random.choice(KEYS)
        with contextlib.suppress(KeyNotFound, RevisionConflict):
            self.store.put(key, self.random.random(), expect=self.store.entry(key).revision)

    def watch(self):
        keys = self.random.choice([(), ("k/",), (self.random.choice(KEYS),)])
        self.kept.append(self.store.watch(*keys).subscribe(lambda entry: None))
        while len(self.kept) > 3:
            self.kept.pop(self.random.randrange(len(self.kept))).dispose()

    def listing(self):
        self.random.choice(
            [lambda: list(self.store), self.store.refresh, lambda: self.store.flush(0.01)]
        )()

    def asynchronous(self):
        asyncio.run(self._asynchronous())

    async def _asynchronous(self):
        await self.store.aget(self.random.choice(KEYS))
        async with self.store.awatch_batches("k/") as batches:
            await anext(batches)


def files_and_threads():
    return psutil.Process().num_fds(), threading.active_count()


def stacks(threads):
    """Where those are that have not ended."""
    frames = sys._current_frames()
    alive = [frames[thread.ident] for thread in threads if thread.is_alive()]
    return "\n".join("".join(traceback.format_stack(frame)) for frame in alive)


def mix(store, seconds):
    problems = []
    until = time.monotonic() + seconds
    crowd = [Crowd(store, seed, until, problems) for seed in range(THREADS)]
    threads = [threading.Thread(target=one.run, daemon=True) for one in crowd]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 60)
    assert not (hang := stacks(threads)), f"never returned:\n{hang}"
    assert problems == []
    assert all(one.calls for one in crowd)


def crowd_of(backend, seconds):
    with Store(backend.source()) as store:
        store.put("warm", 1)
        mix(store, seconds / 2)
        between = psutil.Process().num_fds()
        mix(store, seconds / 2)
        # SQLite keeps descriptors of closed connections for the next ones.
        eventually(lambda: psutil.Process().num_fds() <= between + 2 * THREADS, "files are closed")
        seen = []
        store.watch("end").subscribe(lambda entry: seen.append(entry.value))
        store["end"] = 1
        assert store.flush(30)
        assert seen == [b"1"]


@pytest.mark.parametrize("backend", QUICK, indirect=True)
@pytest.mark.timeout(180)
def test_fifty_threads_mix_everything(backend):
    crowd_of(backend, 1.0)


@pytest.mark.chaos
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.timeout(400)
def test_fifty_threads_mix_everything_for_longer(backend, request):
    """For a minute on each kind of source, and for some seconds on their other manners."""
    crowd_of(backend, 60.0 if request.node.callspec.params["backend"] in SOURCES else 15.0)
