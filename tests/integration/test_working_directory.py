"""A store stays where it was opened when its process goes to another working directory."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from dulwich.repo import Repo

import datastream
from datastream import Store
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
