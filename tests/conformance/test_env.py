"""Environment variables; what writes them does it as a program does, and asks for a refresh."""

import os
import threading

import pytest

from datastream import InvalidKey, Store
from datastream.entry import deleted
from datastream.source import WRITING, check_expected
from datastream.sources._common.file_types import check_round_trip
from datastream.sources.env import EnvSource
from datastream.testing import Conformance, Harness

PREFIX = "APP_"


class EnvHarness(Harness):
    """A dict in place of the environment, which could hold neither NUL nor every name."""

    def __init__(self):
        self.environ = {}
        self.lock = threading.Lock()
        self.sources = []

    def source(self):
        source = EnvSource(PREFIX, case_sensitive=True, environ=self.environ)
        self.sources.append(source)
        return source

    def writer(self):
        return Store(Writer(self), name="elsewhere")


class Writer(EnvSource):
    """Sets variables."""

    features = WRITING

    def __init__(self, harness):
        super().__init__(PREFIX, case_sensitive=True, environ=harness.environ)
        self.harness = harness

    def write(self, writes):
        with self.harness.lock:
            environ = self.harness.environ
            names = [self.name(write.key) for write in writes]
            for write in writes:
                current = self.get(write.key)
                check_expected(write, current and current.revision)
                if write.value is not None:
                    check_round_trip(write.key, write.value, write.value_type)
            changed = dict(environ)
            for name, write in zip(names, writes, strict=True):
                changed.pop(name, None)
                if write.value is not None:
                    changed[name] = os.fsdecode(write.value)
            # In one step, as far as readers see.
            self.replace(changed)
            stored = [self.get(write.key) or deleted(write.key) for write in writes]
        for source in self.harness.sources:
            source.wake()
        return stored

    def replace(self, changed):
        for source in (self, *self.harness.sources):
            source._environ = changed
        self.harness.environ = changed

    def name(self, key):
        name = PREFIX + key.replace("/", "__")
        if self._key(name) != key or key.endswith("/"):
            raise InvalidKey(f"{key!r} is no variable")
        return name


class TestEnv(Conformance):
    @pytest.fixture
    def harness(self):
        return EnvHarness()
