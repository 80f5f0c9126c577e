"""A Source that passes everything on to another one, and now and then fails as backends do."""

from __future__ import annotations

import threading
import time
from random import Random

from datastream.errors import SourceUnavailable
from datastream.source import Feature, HasChanges, Reading, Source

CALM_AFTER_EMPTY = 3.0
"""Seconds without empty answers after some: two of them a real time apart would be the truth."""
LONGEST_EMPTY = 0.5


class Faults:
    """What goes wrong how often; off until `on` is set."""

    def __init__(self, random: Random, *, empty: bool = True) -> None:
        self.on = False
        self._random = random
        self._lock = threading.Lock()
        self._empty = empty
        self._empty_until = self._calm_until = 0.0
        self.count = 0

    def chance(self, probability: float) -> bool:
        if not self.on:
            return False
        with self._lock:
            happens = self._random.random() < probability
            self.count += happens
            return happens

    def pause(self, longest: float) -> None:
        with self._lock:
            seconds = self._random.random() * longest
        time.sleep(seconds)

    def empty(self) -> bool:
        """Whether all answers are empty just now."""
        now = time.monotonic()
        if not self.on or not self._empty:
            return False
        if now < self._empty_until:
            return True
        if now < self._calm_until or not self.chance(0.05):
            return False
        with self._lock:
            self._empty_until = now + self._random.random() * LONGEST_EMPTY
            self._calm_until = self._empty_until + CALM_AFTER_EMPTY
        return True


class Faulty(Source):
    """`inner` with faults."""

    def __init__(self, inner: Source, faults: Faults) -> None:
        self.inner = inner
        self.faults = faults
        self.features = inner.features
        self.thread_safe = inner.thread_safe
        self.eventually_consistent = inner.eventually_consistent
        # A pause is a wait for I/O.
        self.instant = False
        self.lists = Feature.LOG not in inner.features

    @property
    def health(self):
        return self.inner.health

    def capabilities(self):
        return self._call(self.inner.capabilities)

    def read(self, selection, since):
        if self.lists and self.faults.empty():
            return Reading([], f"empty:{time.monotonic_ns()}", True)
        return self._call(self.inner.read, selection, since)

    def get(self, key):
        return self._call(self.inner.get, key)

    def wait(self, timeout):
        if self.faults.chance(0.03):
            raise SourceUnavailable("a fault in wait")
        if self.faults.chance(0.05):
            return
        self.inner.wait(timeout)

    def wake(self):
        self.inner.wake()

    def write(self, writes):
        return self._call(self.inner.write, writes)

    def translate(self, error, key):
        return self.inner.translate(error, key)

    def release(self):
        self.inner.release()

    def close(self):
        self.inner.close()

    def _call(self, function, *arguments):
        faults = self.faults
        if faults.chance(0.1):
            faults.pause(0.03)
        if faults.chance(0.04):
            raise SourceUnavailable(f"a fault before {function.__name__}")
        answer = function(*arguments)
        if faults.chance(0.04):
            # Whatever it did is done; the answer was lost.
            raise SourceUnavailable(f"a fault after {function.__name__}")
        if faults.chance(0.1):
            faults.pause(0.03)
        return answer


class FaultyWithChanges(Faulty):
    """The same of one that brings changes by itself: some are refused, and have to be read."""

    def publish_to(self, publish):
        def refuse_some(change, asked=None, /):
            return not self.faults.chance(0.1) and publish(change, asked)

        self.inner.publish_to(refuse_some)


def faulty(inner: Source, faults: Faults) -> Faulty:
    """`inner` with faults."""
    kind = FaultyWithChanges if isinstance(inner, HasChanges) else Faulty
    return kind(inner, faults)
