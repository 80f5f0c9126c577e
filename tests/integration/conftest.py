"""What the tests against real tools and servers share."""

import signal
import sys
from contextlib import ExitStack

import datastream_grpc
import pytest

import datastream
from tests.integration.command_line import Program


@pytest.fixture
def stack():
    """Closes what a test has opened."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def store(stack):
    """An empty one in memory, for tests that do not need another."""
    return stack.enter_context(datastream.open("memory:"))


@pytest.fixture
def server(stack, store):
    """A server of `store`, on this machine."""
    return stack.enter_context(datastream_grpc.serve(store, "127.0.0.1:0"))


@pytest.fixture
def quick_switches():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


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
