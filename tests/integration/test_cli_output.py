"""Standard files that are closed, or cannot be written: real processes."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

import datastream

NO_ROOM = "datastream: the output cannot be written: No space left on device"


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:{tmp_path}/store.db"
    with datastream.open(url, create=True) as store:
        store["key"] = 1
    return url


def run(arguments: str, url: str, redirection: str) -> tuple[int, str]:
    """Exit code, and what is said on standard error, of a command as a shell starts it."""
    line = f'exec "{sys.executable}" -m datastream.cli {arguments} {redirection}'
    done = subprocess.run(
        ["/bin/sh", "-c", line],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "URL": url},
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "arguments", ['ls "$URL"', pytest.param('export "$URL"', marks=pytest.mark.chaos)]
)
def test_closed_output_is_nobodys(arguments: str, url: str) -> None:
    assert run(arguments, url, ">&-") == (0, "")


def test_all_may_be_closed_and_no_database_gets_their_numbers(url: str) -> None:
    assert run('put "$URL" key 2 --json', url, "<&- >&- 2>&-") == (0, "")
    with datastream.open(url) as store:
        assert dict(store) == {"key": 2}


def test_closed_input_is_not_an_empty_value(url: str) -> None:
    code, said = run('put "$URL" key -', url, "<&-")
    assert (code, said.splitlines()) == (
        1,
        ["datastream: standard input is closed, so nothing can be read from it; give a file or a "
         "pipe"],
    )  # fmt: skip
    with datastream.open(url) as store:
        assert store["key"] == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    "arguments", ["--help", pytest.param('get "$URL" key', marks=pytest.mark.chaos)]
)
def test_a_full_disk_is_one_line(arguments: str, url: str) -> None:
    code, said = run(arguments, url, ">/dev/full")
    assert (code, len(said.splitlines())) == (1, 1)
    assert said.startswith(NO_ROOM)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_command_goes_on_where_its_warnings_cannot_be_written(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "store.db", isolation_level=None)) as db:
        db.execute("CREATE TABLE data (key TEXT PRIMARY KEY, value)")
        db.execute("INSERT INTO data VALUES ('a/', 'no store can name it'), ('b', 1)")
    url = f"sqlite:{tmp_path}/store.db"
    copy = f"file:{tmp_path}/copy?create=true"
    assert "'a/'" in run('ls "$URL"', url, "")[1]
    assert run(f'cp "$URL" "{copy}"', url, "2>/dev/full") == (0, "")
    with datastream.open(copy) as store:
        assert dict(store) == {"b": 1}
