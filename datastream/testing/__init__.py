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

`overriding` is for the tests of programs that use bindings; only the suite needs pytest.
"""

from typing import TYPE_CHECKING, Any

from datastream.testing._overriding import overriding
from datastream.testing._tools import TIMEOUT, Harness, Recorder, Spy

if TYPE_CHECKING:
    from datastream.testing._conformance import Conformance

__all__ = ["TIMEOUT", "Conformance", "Harness", "Recorder", "Spy", "overriding"]


def __getattr__(name: str) -> Any:
    if name != "Conformance":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from datastream.testing._conformance import Conformance
    except ModuleNotFoundError as error:
        raise ImportError(
            f"the conformance suite needs pytest: pip install pytest ({error})"
        ) from error
    globals()[name] = Conformance
    return Conformance
