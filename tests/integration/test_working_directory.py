"""A store stays where it was opened when its process goes to another working directory."""

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import datastream_grpc
import pytest
from datastream_grpc.source import GrpcSource
from dulwich.repo import Repo

import datastream
from datastream import DatastreamError, Store
from datastream.sources.files import FilesSource
from datastream.sources.git import GitSource
from datastream.sources.postgres.options import parameters
from datastream.sources.sqlite import SqliteSource
from datastream.testing import Recorder

AUTHOR = {"author": "Ann", "email": "ann@example.org"}


def make_files():
    Path("place").mkdir()


def make_document():
    Path("place.json").write_text(json.dumps({"there": True}))


def make_repository():
    Repo.init("place", mkdir=True).close()


def make_remote():
    Repo.init_bare("place", mkdir=True).close()


def open_remote():
    return datastream.open(f"git+file://{Path.cwd() / 'place'}", cache="clones", **AUTHOR)


def make_database():
    with closing(sqlite3.connect("place")) as db:
        db.execute("CREATE TABLE data (key TEXT PRIMARY KEY, value)")


@pytest.mark.parametrize(
    ("make", "opened"),
    [
        (make_files, lambda: datastream.open("file:place")),
        (make_files, lambda: datastream.open("file:./place/../place", polling=True)),
        (make_files, lambda: Store(FilesSource("place"))),
        (make_document, lambda: datastream.open("file:place.json")),
        (make_repository, lambda: datastream.open("git:place", **AUTHOR)),
        (make_repository, lambda: Store(GitSource(Path("place"), **AUTHOR))),
        (make_remote, open_remote),
        (make_database, lambda: datastream.open("sqlite:place")),
        (make_database, lambda: Store(SqliteSource(Path("place")))),
    ],
)
def test_a_store_stays_where_it_was_opened(tmp_path, monkeypatch, stack, make, opened):
    """Also where there is one of that name."""
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for folder in (elsewhere, here):
        folder.mkdir()
        monkeypatch.chdir(folder)
        make()
    store = stack.enter_context(opened())
    recorder = Recorder(store)
    recorder.wait_ready()
    store["a.txt"] = "before"
    monkeypatch.chdir(elsewhere)
    names = sorted(elsewhere.iterdir())
    store["b.txt"] = "after"
    recorder.wait(lambda r: {"a.txt", "b.txt"} <= r.state.keys())
    assert store["a.txt"] == "before"
    assert sorted(elsewhere.iterdir()) == names
    untouched = stack.enter_context(opened())
    assert not {"a.txt", "b.txt"} & set(untouched)
    monkeypatch.chdir(here)
    again = stack.enter_context(opened())
    again["c.txt"] = "from beside"
    monkeypatch.chdir(tmp_path)
    recorder.wait(lambda r: "c.txt" in r.state)
    assert dict(store) == dict(again)


@pytest.mark.parametrize("name", ["socket", "./socket", "a%20socket", "50% ours"])
def test_a_socket_stays_where_it_was_opened(tmp_path, monkeypatch, stack, name):
    """For server and client, and also where there is another one of that name."""
    here, elsewhere = tmp_path / "here 100%25", tmp_path / "elsewhere"
    stores = {
        folder: stack.enter_context(datastream.open("memory:")) for folder in (here, elsewhere)
    }
    servers = {}
    for folder, store in stores.items():
        folder.mkdir()
        monkeypatch.chdir(folder)
        servers[folder] = stack.enter_context(datastream_grpc.serve(store, f"unix:{name}"))
    monkeypatch.chdir(here)
    remote = stack.enter_context(datastream.open(f"grpc:unix:{name}"))
    # Connected from another directory than it was opened in.
    direct = stack.enter_context(Store(GrpcSource(f"unix:{name}")))
    monkeypatch.chdir(elsewhere)
    remote["a"] = 1
    assert asyncio.run(remote.aget("a")) == 1
    servers[here].stop()
    assert len(list(elsewhere.iterdir())) == 1
    assert list(here.iterdir()) == []
    servers[here] = stack.enter_context(datastream_grpc.serve(stores[here], servers[here].address))
    direct["b"] = 2
    assert dict(stores[here]) == {"a": 1, "b": 2}
    assert dict(stores[elsewhere]) == {}


def test_a_socket_whose_path_is_too_long_with_its_directory_is_refused(tmp_path, monkeypatch):
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.chdir(deep)
    with datastream.open("memory:") as store, pytest.raises(OSError, match="107 bytes"):
        datastream_grpc.serve(store, "unix:socket")
    with pytest.raises(DatastreamError, match="107 bytes"):
        datastream.open("grpc:unix:socket")


def test_files_of_libpq_are_found_from_elsewhere(tmp_path, monkeypatch):
    """It opens them anew with each connection."""
    monkeypatch.chdir(tmp_path)
    given = {"sslrootcert": "roots.crt", "passfile": "/etc/pass"}
    assert (
        parameters("", given).items()
        >= {
            "sslrootcert": str(tmp_path / "roots.crt"),
            "passfile": "/etc/pass",
        }.items()
    )
    assert parameters("", {"sslrootcert": "system"})["sslrootcert"] == "system"
