"""The command line over repositories."""

import json
import os
import pty
import subprocess
import sys

import pytest

from tests.integration.command_line import run
from tests.repositories import Repository, git_environment  # noqa: F401  (a fixture)


@pytest.fixture
def repository(tmp_path):
    repository = Repository.new(tmp_path / "repository")
    repository.commit({"fx/USD": "1.0", "a": "tab\there"}, "first\n\nwith a body")
    repository.git("tag", "v1")
    repository.commit({"fx/USD": "1.1"}, "second")
    repository.commit({"fx/USD": None, "b": "1"}, "third")
    return repository


def test_history_on_a_pipe(repository):
    result = run("history", f"git:{repository.path}", "fx/USD")
    assert result.exit_code == 0
    lines = [line.split("\t") for line in result.output.splitlines()]
    points = repository.git("log", "--format=%H", "--", "fx/USD").splitlines()
    assert [line[:2] for line in lines] == [
        ["DELETE", points[0]],
        ["PUT", points[1]],
        ["PUT", points[2]],
    ]
    assert lines[1][3:] == ["Somebody <somebody@example.org>", "1.1", "second"]
    assert lines[2][5] == "first"


def test_history_as_json(repository):
    result = run("history", f"git:{repository.path}", "fx/USD", "--json")
    objects = [json.loads(line) for line in result.output.splitlines()]
    assert [item["value"] for item in objects] == ["", "1.1", "1.0"]
    assert objects[2]["message"] == "first\n\nwith a body\n"
    assert objects[1]["point"] == repository.head("HEAD~1")
    assert set(objects[0]) >= {"key", "revision", "operation", "updated_at", "author"}


def test_history_where_there_is_none(tmp_path):
    assert run("put", f"sqlite:{tmp_path}/x.db", "a", "1").exit_code == 0
    result = run("history", f"sqlite:{tmp_path}/x.db", "a")
    assert result.exit_code == 1
    assert "cannot go back" in result.stderr


def test_watch_since_shows_each_commit_then_follows(repository, start):
    program = start("watch", f"git:{repository.path}", "fx/", "b", "--since", "v1")
    seen = [program.line().split("\t")[:2] for _ in range(3)]
    assert seen[0] == ["PUT", "fx/USD"]
    assert sorted(seen[1:]) == [["DELETE", "fx/USD"], ["PUT", "b"]]
    repository.commit({"fx/USD": "1.2"})
    assert program.line().startswith("PUT\tfx/USD\tfloat\t1.2\t")


@pytest.mark.parametrize("since", ["nosuch", "2024-01-01"])
def test_watch_since_what_is_no_point(repository, since):
    result = run("watch", f"git:{repository.path}", "--since", since)
    assert result.exit_code == 1
    assert result.output.count("\n") == 1


def test_get_put_ls_and_rm(repository):
    url = f"git:{repository.path}"
    assert run("put", url, "new/key", "5").exit_code == 0
    assert run("get", url, "new/key").output == "5\n"
    assert run("rm", url, "a").exit_code == 0
    assert [line.split("\t")[0] for line in run("ls", url).output.splitlines()] == ["b", "new/key"]
    assert repository.git("status", "--porcelain") == ""


def test_a_clone_shows_its_progress_on_a_terminal(repository, tmp_path):
    ours, theirs = pty.openpty()
    program = subprocess.Popen(
        [sys.executable, "-m", "datastream.cli", "ls", f"git+file://{repository.path}"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "80"},
    )
    os.close(theirs)
    output, _ = program.communicate(timeout=90)
    shown = os.read(ours, 100_000)
    os.close(ours)
    assert output.splitlines()[0].startswith(b"a\t")
    assert b"cloning" in shown
