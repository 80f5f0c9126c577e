"""Processes that share one reader of a backend."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

import datastream_grpc
import psutil
import pytest
from datastream_grpc.sharing import _Lock

import datastream
from datastream import DatastreamError
from tests.integration._programs.tools import TIMEOUT, Child, Follower, eventually

WORKERS = 16
BOOT = 120.0
"""Seconds until all of them have started, on a busy machine."""


@pytest.fixture
def path():
    # Those of pytest are too long for a socket.
    with tempfile.TemporaryDirectory() as directory:
        yield f"{directory}/relay"


@pytest.fixture
def database(tmp_path):
    return tmp_path / "store.db"


def shared(stack, database, path):
    return stack.enter_context(datastream_grpc.shared(f"sqlite:{database}", path))


def test_a_path_is_no_url(stack, database, tmp_path):
    path = tmp_path / "100%25"
    first, second = shared(stack, database, path), shared(stack, database, path)
    first["k"] = 1
    assert second["k"] == 1
    assert path.is_socket()


def test_the_next_takes_over_when_the_first_is_closed(stack, database, path):
    first, second = shared(stack, database, path), shared(stack, database, path)
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    follower = Follower(second, "k")
    first["k"] = 1
    follower.wait_key("k", b"1")
    first.close()
    second.put("k", 2, wait=TIMEOUT)
    follower.wait_key("k", b"2")
    third = shared(stack, database, path)
    assert third["k"] == 2
    assert [entry.value for entry in follower.entries] == [b"1", b"2"]


@pytest.mark.parametrize(
    ("url", "path", "error"),
    [
        ("memory:", "relay", DatastreamError),
        ("sqlite:x", "x" * 200, DatastreamError),
        ("sqlite:x", "/missing/relay", OSError),
        ("sqlite:/missing/x.db", None, DatastreamError),
    ],
)
def test_what_cannot_be_shared_is_refused(url, path, error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with tempfile.TemporaryDirectory() as directory, pytest.raises(error):
        datastream_grpc.shared(url, path or f"{directory}/relay")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_does_not_hold_the_lock_of_its_parent(path):
    lock, other = _Lock(path), _Lock(path)
    assert lock.acquire()
    assert not other.acquire()
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.read(reader, 1)
        os._exit(0)
    try:
        # As when it ends: nobody unlocks.
        lock.close()
        eventually(other.acquire, "the lock")
    finally:
        other.close()
        os.write(writer, b"!")
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)


def readers(database, processes):
    """Of the processes, those that have the database open."""
    found = []
    for child in processes:
        with suppress(psutil.NoSuchProcess):
            files = psutil.Process(child.process.pid).open_files()
            if any(file.path == str(database) for file in files):
                found.append(child)
    return found


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_sixteen_processes_have_one_reader_and_another_takes_over(stack, database, path):
    store = stack.enter_context(datastream.open(f"sqlite:{database}"))
    store["k"] = 0
    children = [
        stack.enter_context(Child("sharing", f"sqlite:{database}", path)) for _ in range(WORKERS)
    ]
    for child in children:
        assert [child.line(BOOT), child.line()] == ["ready", "0"]
    for number in (1, 2, 3):
        eventually(lambda: len(readers(database, children)) == 1, "one reader of the backend")
        store["k"] = number
        for child in children:
            assert child.line() == str(number)
        (serving,) = readers(database, children)
        children.remove(serving)
        serving.kill()
    store["k"] = 4
    for child in children:
        assert child.line() == "4"
    assert len(readers(database, children)) == 1
