"""Mirrors whose process, source or target is killed, at every step: the end is exactly equal."""

import itertools

import pytest

import datastream
from datastream import State, mirror
from tests.integration._programs.tools import Child, eventually
from tests.integration.mirror.test_pairs import Changes, held, make_changes
from tests.servers.postgres import GIVEN, Server

LONG = 60
STEPS = ["before-write", "after-write", "before-place", "in-place", "after-place"]


def live_through(source, target, place, steps, counts):
    """Kill a mirror at each step, while the source changes; then let one end its work."""
    changes = Changes(5, keys=40)
    with datastream.open(source, create=True) as store:
        with datastream.open(target, create=True):
            pass
        make_changes(store.write, changes, 40)
        for step, count in itertools.product(steps, counts):
            with Child("mirroring", source, target, place, step, count) as child:
                while child.process.poll() is None:
                    make_changes(store.write, changes, 5)
                said = list(child.rest())
            # What its predecessors left there is not taken for somebody else's.
            assert not [line for line in said if line.startswith("FAILED")]
        with datastream.open(target) as other:
            with mirror(store, other, place=place or None, delete_limit=1.0) as running:
                assert running.flush(LONG)
            assert {k: v for k, v in held(other).items() if k[0] != "_"} == held(store)


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("target", ["sqlite", "file"])
@pytest.mark.parametrize("in_file", [True, False], ids=["place in a file", "place in the target"])
def test_a_mirror_that_is_killed_at_every_step_goes_on(tmp_path, target, in_file):
    urls = f"sqlite:{tmp_path}/a.db", f"{target}:{tmp_path}/b"
    steps = STEPS if in_file else STEPS[:2]
    live_through(*urls, str(tmp_path / "place") if in_file else "", steps, [1, 2, 3, 5])


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_a_target_whose_server_is_killed_comes_back(tmp_path):
    if GIVEN:
        pytest.skip("needs a server that may be killed")
    changes = Changes(6)
    with Server().start() as server, datastream.open(f"sqlite:{tmp_path}/a.db", create=True) as a:
        with datastream.open(f"{server.url}&table=t", create=True) as b:
            with mirror(a, b, delete_limit=1.0) as running:
                for _ in range(3):
                    make_changes(a.write, changes, 300)
                    server.kill()
                    make_changes(a.write, changes, 300)
                    server.start()
                assert running.flush(LONG)
            assert {k: v for k, v in held(b).items() if k[0] != "_"} == held(a)


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_a_source_whose_server_is_killed_comes_back(tmp_path):
    path, changes = tmp_path / "a.db", Changes(7)
    with (
        datastream.open(f"sqlite:{path}", create=True) as writer,
        datastream.open("memory:") as b,
    ):
        server = Child("server", f"sqlite:{path}", "127.0.0.1:0")
        address = server.line()
        with datastream.open(f"grpc://{address}") as a, mirror(a, b, delete_limit=1.0) as running:
            for _ in range(3):
                make_changes(writer.write, changes, 300)
                server.kill()
                make_changes(writer.write, changes, 300)
                server = Child("server", f"sqlite:{path}", address)
                assert server.line() == address
            eventually(lambda: a.status.current.state is State.READY, "the server answers")
            assert running.flush(LONG)
            assert {k: v for k, v in held(b).items() if k[0] != "_"} == held(writer)
        server.kill()
