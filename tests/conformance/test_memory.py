import secrets

import pytest

from datastream.sources.memory import MemorySource
from datastream.testing import Conformance, Harness


class MemoryHarness(Harness):
    def __init__(self):
        self._name = secrets.token_hex(8)
        # The table lives as long as a source over it does.
        self._keeper = MemorySource(self._name)

    def source(self):
        return MemorySource(self._name)


class TestMemory(Conformance):
    @pytest.fixture
    def harness(self):
        return MemoryHarness()
