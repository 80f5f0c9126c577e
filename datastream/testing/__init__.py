"""The conformance suite: what every Source promises, as tests to run over your own.

::

    import pytest
    from datastream.testing import Conformance, Harness

    class MyHarness(Harness):
        def __init__(self, directory):
            self.directory = directory

        def source(self):
            return MySource(self.directory)  # each call: another Source on the same backend

    class TestMySource(Conformance):
        @pytest.fixture
        def harness(self, tmp_path):
            return MyHarness(tmp_path)

The backend starts empty. What a Source does not declare in its ``features`` is checked to be
refused early with a clear error.

`overriding` is for the tests of programs that use bindings.
"""

from datastream.testing._conformance import Conformance
from datastream.testing._overriding import overriding
from datastream.testing._tools import TIMEOUT, Harness, Recorder, Spy

__all__ = ["TIMEOUT", "Conformance", "Harness", "Recorder", "Spy", "overriding"]
