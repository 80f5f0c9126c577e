"""In a child process every store that was opened before the fork is closed, and says why."""

import subprocess
import sys
import textwrap

import pytest

from tests.repositories import ENVIRONMENT, GIT, Repository

PROGRAM = """
import os, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import faulthandler, signal
faulthandler.register(signal.SIGALRM, all_threads=True, chain=True)
signal.alarm(50)
import datastream
from datastream import StoreClosed

url = sys.argv[1]
store = datastream.open(url)
store["a"] = 1
got = []
subscription = store.watch().subscribe(lambda entry: got.append(entry.key))
watch = store.awatch("a")
stop = threading.Event()

def write():
    number = 0
    while not stop.is_set():
        number += 1
        store["busy"] = number
        store.get("a")
        stop.wait(0.002)

threads = [threading.Thread(target=write) for _ in range(2)] if len(sys.argv) > 2 else []
for thread in threads:
    thread.start()
if not url.startswith("memory"):
    # The poller has begun, and imported what it needs.
    with datastream.open(url) as other:
        other["begun"] = 1
    while "begun" not in got:
        stop.wait(0.01)
# A thread that is inside a C library when the process forks may leave one of its locks held.
opens_anew = not (threads or url.startswith("memory"))
pid = os.fork()
if pid == 0:
    signal.alarm(30)
    def refused(what, call):
        try:
            call()
        except StoreClosed as error:
            assert "opened before fork; open it anew" in str(error), error
        else:
            raise SystemExit(f"{what} was not refused")
    refused("get", lambda: store["a"])
    refused("put", lambda: store.put("child", 1))
    refused("delete", lambda: store.delete("a"))
    refused("list", lambda: list(store))
    refused("snapshot", lambda: store.snapshot())
    refused("subscribe", lambda: store.watch().subscribe(got.append))
    refused("refresh", lambda: store.refresh())
    assert store.status.current.state == "CLOSED", store
    assert "CLOSED" in repr(store)
    states = []
    store.status.subscribe(lambda status: states.append(status.state))
    subscription.dispose()
    store.flush(1)
    store.close()
    if opens_anew:
        with datastream.open(url) as anew:
            seen = []
            anew.watch().subscribe(lambda entry: seen.append(entry.key))
            anew["child"] = 1
            assert anew.flush(30) and "child" in seen, seen
    del store, watch, subscription
    import gc; gc.collect()
    print("child ok", flush=True)
    os._exit(0)
_, status = os.waitpid(pid, 0)
stop.set()
for thread in threads:
    thread.join()
assert status == 0, status
store["b"] = 2
assert store.flush(30)
assert "b" in got, got
if opens_anew:
    assert store["child"] == 1
assert store.status.current.state == "READY", store
store.close()
print("parent ok", flush=True)
"""


@pytest.fixture(params=["memory", "sqlite", "file", "git"])
def url(request, tmp_path, monkeypatch):
    if request.param == "git":
        if GIT is None:
            pytest.skip("needs the git program: apt-get install git")
        for name, value in ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
        Repository.new(tmp_path / "repository", bare=True)
    (tmp_path / "files").mkdir()
    return {
        "memory": "memory:shared",
        "sqlite": f"sqlite:{tmp_path / 'x.db'}",
        "file": f"file:{tmp_path / 'files'}",
        "git": f"git:{tmp_path / 'repository'}?branch=main",
    }[request.param]


@pytest.mark.parametrize("busy", [False, True])
def test_a_child_is_refused_and_its_parent_goes_on(url, busy):
    program = textwrap.dedent(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-c", program, url, *(["busy"] if busy else [])],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split("\n")[:2] == ["child ok", "parent ok"], done.stderr
