"""What holds for every test: nothing is left behind."""

import contextlib
import gc
import os
import shutil
import sys
import tempfile
import threading
import time

import psutil
import pytest

# gRPC's own poller and pytest's helpers live as long as the process.
LASTING = (
    "_poll_wrapper",
    "fsspecIO",
    "datastream-reaper",
    "execnet",
    "ThreadPoolExecutor",
    "asyncio_",
    "pytest_timeout",
    "Dummy",
)
GRACE = 30.0
"""Seconds that what a test started has to end: a busy disk takes ten to write a file out."""
SLOW = 300
"""Seconds of time limit from which a test is begun early."""


def pytest_configure(config):
    """Child processes keep what they compile, outside the tree.

    Where the environment forbids it, each of some hundred would compile all of ours anew.
    """
    if sys.dont_write_bytecode and not hasattr(config, "workerinput"):
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = tempfile.mkdtemp()
        config.add_cleanup(lambda: shutil.rmtree(os.environ.pop("PYTHONPYCACHEPREFIX")))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Have each worker begin with some of the long runs: the last to end would else be alone."""
    workers = getattr(config, "workerinput", {}).get("workercount", 0)
    if workers:
        items[:] = slow_ones_first(items, _time_limit, workers)


def slow_ones_first(items, limit, workers):
    """The same, those that may take `SLOW` seconds at the heads of the parts that workers get."""
    slow = sorted((item for item in items if limit(item) >= SLOW), key=limit, reverse=True)
    rest, ordered = [item for item in items if limit(item) < SLOW], []
    for worker in range(workers):
        # As xdist's worksteal deals them out.
        size = (len(items) - len(ordered)) // (workers - worker)
        mine = slow[worker::workers]
        few = max(0, size - len(mine))
        ordered += mine + rest[:few]
        del rest[:few]
    return ordered


def _time_limit(item):
    marker = item.get_closest_marker("timeout")
    return marker.args[0] if marker and marker.args else 0


def _threads():
    return {
        thread
        for thread in threading.enumerate()
        if not any(name in thread.name for name in LASTING)
    }


def _children():
    return set(psutil.Process().children(recursive=True))


@pytest.fixture(scope="session")
def postgres_server():
    """The URL of a server for all tests that do not stop or kill theirs."""
    from tests.servers.postgres import GIVEN, Server

    if GIVEN:
        yield GIVEN
        return
    with Server().start() as server:
        yield server.url


@pytest.fixture
def postgres(postgres_server):
    """The URL of an empty schema."""
    from tests.servers.postgres import fresh_schema

    with fresh_schema(postgres_server) as url:
        yield url


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """Threads and processes that a test started are gone soon after it."""
    threads, children = _threads(), _children()
    yield
    until = time.monotonic() + GRACE
    while time.monotonic() < until:
        if not (_threads() - threads or _children() - children):
            return
        gc.collect()
        for thread in _threads() - threads:
            # One that has not quite started cannot be joined yet.
            with contextlib.suppress(RuntimeError):
                thread.join(0.05)
    left = [thread.name for thread in _threads() - threads] + list(_children() - children)
    assert not left, f"left behind: {left}"
