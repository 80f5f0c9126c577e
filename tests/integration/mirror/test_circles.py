"""Mirrors that would feed themselves: started at the same moment, in any order, by other names."""

import subprocess
import sys
import threading

import pytest
from datastream_grpc import serve

import datastream
from datastream import DatastreamError, State, mirror
from datastream._mirror.feeds import Feeds
from tests.integration._programs.tools import eventually

LONG = 30


def mirror_elsewhere(a, b):
    """Mirror once in another process."""
    command = [sys.executable, "-m", "datastream.cli", "mirror", a.name, b.name, "--once"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG, check=False)
    assert done.returncode == 0, done.stderr


def is_in_a_circle(running):
    status = running.status.current
    return status.state is State.FAILED and "go round" in str(status.error)


def places(store):
    return store.snapshot("_datastream/").keys()


@pytest.fixture
def a(kinds):
    return kinds.open("sqlite")


@pytest.fixture
def b(kinds):
    return kinds.open("sqlite")


@pytest.fixture
def served(stack):
    """Opens what another store holds over a server."""

    def serve_it(store):
        server = serve(store, "127.0.0.1:0")
        stack.callback(server.stop)
        return stack.enter_context(datastream.open(f"grpc://{server.address}"))

    return serve_it


@pytest.mark.parametrize("on_conflict", [None, "source", "target"])
def test_of_two_that_start_at_the_same_moment_one_is_refused(a, b, monkeypatch, on_conflict):
    started, go, join = threading.Event(), threading.Event(), Feeds.join

    def held_up(feeds, cursors):
        started.set()
        assert go.wait(LONG)
        return join(feeds, cursors)

    a["x"] = 1
    monkeypatch.setattr(Feeds, "join", held_up)
    with mirror(b, a, on_conflict=on_conflict, delete_limit=1.0) as running:
        # It has found nothing in its source by now, and kept no place yet.
        assert started.wait(LONG)
        mirror_elsewhere(a, b)
        go.set()
        eventually(lambda: is_in_a_circle(running), "the circle is seen")
        # Else the other one could not be started again.
        assert not places(a)
        b.write(*(datastream.Write(key, None) for key in places(b)))
        assert running.flush(LONG)
        assert places(a)
    assert a["x"] == b["x"] == 1


def test_one_that_begins_later_in_the_other_direction_is_noticed(a, b, served):
    a["x"] = 1
    remote = served(a)
    with mirror(a, b) as running:
        assert running.ready(LONG)
        # By another name, so that it cannot know.
        with mirror(b, remote) as other:
            assert other.ready(LONG)
            eventually(lambda: is_in_a_circle(running), "the circle is seen")
        a.write(*(datastream.Write(key, None) for key in places(a)))
        assert running.flush(LONG)


@pytest.mark.parametrize("is_target", [True, False], ids=["target", "source"])
def test_a_circle_through_a_server_is_refused(a, b, served, is_target):
    a["x"] = 1
    remote = served(b)
    there, back = (remote, b) if is_target else (b, remote)
    with mirror(a, there) as running:
        assert running.flush(LONG)
    with pytest.raises(DatastreamError, match="go round"):
        mirror(back, a)


def test_a_store_is_not_mirrored_into_itself_by_another_name(a, served):
    a["x"] = 1
    with mirror(a, served(a)) as running:
        with pytest.raises(DatastreamError, match="go round"):
            running.ready(LONG)


def test_a_ring_is_refused_whichever_part_of_it_was_first(a, b, kinds):
    c = kinds.open("sqlite")
    a["x"] = 1
    with mirror(b, c) as running:
        assert running.ready(LONG)
        mirror_elsewhere(a, b)
        assert running.flush(LONG)
    with pytest.raises(DatastreamError, match="go round"):
        mirror(c, a)


def test_a_copy_of_a_target_is_another_store(a, b, tmp_path):
    a["x"] = 1
    with mirror(a, b) as running:
        assert running.flush(LONG)
    with datastream.open(f"sqlite:{tmp_path}/copy.db", create=True) as copy:
        copy.put_many({key: b.entry(key).value for key in b})
        with mirror(copy, a, on_conflict="source") as running:
            assert running.flush(LONG)
