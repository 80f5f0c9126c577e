"""A consumer that is killed at every step, and at any time, ends exactly equal to its store."""

import random
import sqlite3
import threading
from contextlib import closing, contextmanager

import datastream_grpc
import pytest
from dulwich.repo import Repo

import datastream
from tests.integration._programs.tools import Child
from tests.servers.s3 import CREDENTIALS, new_bucket, s3_server

CHANGES = 10_000
KEYS = [f"k/{number}" for number in range(40)]


def rows(target, query):
    with closing(sqlite3.connect(target, timeout=30)) as db:
        return db.execute(query).fetchall()


def is_equal(target, store):
    """Whether the state that was handled is that of the store."""
    try:
        found = dict(rows(target, "SELECT key, value FROM state"))
    except sqlite3.OperationalError:
        return False
    wanted = {e.key: e.value.decode() for e in store.snapshot(exclude="consumer/**").values()}
    return found == wanted


def finish(target, store, *arguments):
    """Run a consumer until all is handled."""
    with Child("consuming", *arguments) as child:
        assert child.line() == "ready"
        # There may be thousands of commits left.
        pause = threading.Event()
        while not is_equal(target, store) and child.process.poll() is None:
            pause.wait(0.1)
    assert is_equal(target, store)


@pytest.mark.chaos
@pytest.mark.parametrize("number", [1, 4])
@pytest.mark.parametrize(
    "step", ["called", "handled", "place", "torn", "written", "renamed", "in a store"]
)
def test_killed_at_a_step(tmp_path, step, number):
    url, target = f"sqlite:{tmp_path}/data.db", tmp_path / "target.db"
    place = f"sqlite:{tmp_path}/places.db" if step == "in a store" else tmp_path / "place"
    step = "handled" if step == "in a store" else step
    with datastream.open(url) as store:
        store.update({"a": 0, "gone": 0})
        child = Child("consuming", url, place, target, 1, step, number)
        # It may be killed before it says so.
        next(child.rest(), None)
        for value in range(1, 6):
            store.update({"a": value})
            store.update({"b": value})
        store.update({"brief": 1})
        del store["gone"], store["brief"]
        assert child.wait() != 0
        child.close()
        del store["b"]
        finish(target, store, url, place, target, 1)


@contextmanager
def served(tmp_path):
    with datastream.open(f"sqlite:{tmp_path}/served.db") as behind:
        server = datastream_grpc.serve(behind, "127.0.0.1:0")
        try:
            yield f"grpc://{server.address}"
        finally:
            server.stop()


@contextmanager
def bucket(monkeypatch):
    with s3_server() as url:
        name = new_bucket(url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", CREDENTIALS["key"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CREDENTIALS["secret"])
        yield f"s3://{name}?endpoint_url={url}&interval=0.2"


@pytest.fixture
def source(request, tmp_path, monkeypatch):
    """The URL of a store that the tests may write."""
    kind = request.param
    if kind == "sqlite":
        yield f"sqlite:{tmp_path}/data.db"
    elif kind == "file":
        (tmp_path / "data").mkdir()
        yield f"file:{tmp_path}/data"
    elif kind == "git":
        Repo.init(str(tmp_path / "repository"), mkdir=True).close()
        yield f"git:{tmp_path}/repository"
    elif kind == "grpc":
        with served(tmp_path) as url:
            yield url
    elif kind == "s3":
        with bucket(monkeypatch) as url:
            yield url
    else:
        history = "&history=true" if kind == "postgres history" else ""
        yield request.getfixturevalue("postgres") + "&create=true" + history


class Writer:
    """Makes random changes; each value is new, and greater than those before."""

    def __init__(self, store, seed, changes):
        self.store = store
        self.random = random.Random(seed)
        self.changes = changes
        self.number = 0
        self.written = {key: [] for key in KEYS}
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while self.number < self.changes and not self.stopped.is_set():
            keys = self.random.sample(KEYS, self.random.choice((1, 1, 1, 2, 5)))
            if self.random.random() < 0.2:
                self.store.delete(keys[0], missing_ok=True)
                self.number += 1
                continue
            values = {}
            for key in keys:
                self.number += 1
                values[key] = self.number
                self.written[key].append(str(self.number))
            self.store.put_many(values)


@pytest.mark.chaos
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize(
    "source",
    ["sqlite", "file", "git", "postgres", "postgres history", "grpc", "s3"],
    indirect=True,
)
def test_killed_at_any_time(source, concurrency, tmp_path, request):
    kind = request.node.callspec.params["source"]
    target, rolled = tmp_path / "target.db", random.Random(f"{kind} {concurrency}")
    place = f"sqlite:{tmp_path}/places.db" if concurrency > 1 else tmp_path / "place"
    arguments = (source, place, target, concurrency)
    changes = CHANGES // 10 if kind == "s3" else CHANGES
    with datastream.open(source) as store:
        writer = Writer(store, f"{kind} {concurrency}", changes)
        store["k/0"] = 0
        # What is there at first is handled; from then on, each change counts.
        finish(target, store, *arguments)
        writer.thread.start()
        kills = 0
        try:
            while writer.thread.is_alive():
                with Child("consuming", *arguments) as child:
                    assert child.line() == "ready"
                    writer.thread.join(rolled.expovariate(1.0))
                    child.kill()
                kills += 1
        finally:
            # Of a test that fails, it would make the next ones fail, too.
            writer.stopped.set()
            writer.thread.join()
        finish(target, store, *arguments)
    assert kills
    check_order(kind, target, writer)


def check_order(kind, target, writer):
    """Each key's values come first in the order in which they were written."""
    for key in KEYS:
        query = f"SELECT value FROM log WHERE key = '{key}' AND value > '' ORDER BY id"
        firsts = list(dict.fromkeys(value for (value,) in rows(target, query)))
        assert firsts == sorted(firsts, key=int)
        if kind == "git":
            assert [value for value in firsts if value != "0"] == writer.written[key]
