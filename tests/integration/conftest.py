"""What the tests against real tools and servers share."""

from contextlib import ExitStack

import pytest


@pytest.fixture
def stack():
    """Closes what a test has opened."""
    with ExitStack() as stack:
        yield stack
