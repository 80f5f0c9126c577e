"""What the tests against real tools and servers share."""

import signal
from contextlib import ExitStack

import pytest

from tests.integration.command_line import Program


@pytest.fixture
def stack():
    """Closes what a test has opened."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def interruptible():
    """A shell that runs the tests in the background has them, and so their children, ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def start(interruptible):
    """Starts ``datastream`` processes; they end with the test."""
    programs = []

    def start(*arguments, read=True):
        programs.append(Program(*arguments))
        if read:
            programs[-1].read_output()
        return programs[-1]

    yield start
    for program in programs:
        program.end()
