"""A process forked from one that has used the event loop of grpc.aio, which a child has not."""

import subprocess
import sys

import datastream_grpc
import pytest

import datastream
from tests.repositories import ENVIRONMENT

CRASHED, ATTEMPTS = 99, 5
"""After grpc.aio was used, one of gRPC's own threads now and then crashes as the child begins."""

PROGRAM = (
    f"CRASHED = {CRASHED}"
    """
import asyncio, os, signal, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
signal.alarm(50)
import datastream, datastream_grpc

url, before = sys.argv[1:]
remote = datastream.open(url)
if before == "awaited":
    asyncio.run(remote.aput("parent", 1))
else:
    memory = datastream.open("memory:")
    server = datastream_grpc.serve(memory, "127.0.0.1:0")

pid = os.fork()
if pid == 0:
    signal.alarm(30)

    async def run():
        with datastream.open(url) as store:
            await store.aput("child", 1)
            await store.aput_many({"other": 2})
            print(await store.aget("child"), len(await store.asnapshot("child", "other")))
            async with asyncio.timeout(20):
                async for entry in store.awatch("child"):
                    print(entry.decode())
                    break

    asyncio.run(run())
    try:
        datastream_grpc.serve(datastream.open("memory:"), "127.0.0.1:0")
    except datastream.DatastreamError as error:
        print(error)
    sys.stdout.flush()
    os._exit(0)
status = os.waitpid(pid, 0)[1]
if status == signal.SIGSEGV:
    sys.exit(CRASHED)
assert status == 0
asyncio.run(remote.aput("parent", 2))
print("parent", asyncio.run(remote.aget("parent")))
"""
)


@pytest.mark.parametrize("before", ["awaited", "served"])
def test_a_child_neither_hangs_nor_serves(before):
    with datastream.open("memory:") as store, datastream_grpc.serve(store, "127.0.0.1:0") as server:
        for _ in range(ATTEMPTS):
            run = subprocess.run(
                [sys.executable, "-c", PROGRAM, f"grpc://{server.address}", before],
                capture_output=True,
                text=True,
                timeout=100,
                env=ENVIRONMENT,
                check=False,
            )
            if run.returncode != CRASHED:
                break
    assert run.returncode == 0, run.stderr
    values, watched, refusal, parent = run.stdout.splitlines()
    assert (values, watched, parent) == ("1 2", "1", "parent 2")
    assert "forked from one that had served" in refusal


INHERITED = """
import gc, os, signal, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
signal.alarm(50)
import datastream, datastream_grpc

def child(end):
    pid = os.fork()
    if pid:
        assert os.waitpid(pid, 0)[1] == 0
        return False
    signal.alarm(20)
    end()
    return True

memory = datastream.open("memory:")
server = datastream_grpc.serve(sys.argv[1] or memory, "127.0.0.1:0")
if child(server.stop) or child(lambda: sys.exit()):
    sys.exit()
if child(lambda: globals().pop("server")):
    gc.collect()
    sys.exit()
with datastream.open(f"grpc://{server.address}") as remote:
    remote["k"] = 1
    print(remote["k"])
if sys.argv[1]:
    assert all(os.path.exists(f"/proc/{pid}") for pid in server.pids)
server.stop()
"""


@pytest.mark.parametrize("url", ["", "sqlite:store.db?create=true"])
def test_a_child_that_ends_ends_no_server_of_its_parent(tmp_path, url):
    run = subprocess.run(
        [sys.executable, "-c", INHERITED, url],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=tmp_path,
        env=ENVIRONMENT,
        check=False,
    )
    assert (run.stdout, run.returncode) == ("1\n", 0), run.stderr
    assert "a worker ended" not in run.stderr
