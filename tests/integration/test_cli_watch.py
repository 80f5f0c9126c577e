"""`datastream watch`: lines on a pipe, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from dulwich.repo import Repo

import datastream
from tests.integration.command_line import TIMEOUT, Start, run


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'store.db'}"


# watch.


def test_watch_shows_the_state_and_what_other_processes_change(url: str, start: Start) -> None:
    run("put", url, "fx/USD", "1.1")
    run("put", url, "other", "1")
    watch = start("watch", url, "fx/", "--json")
    assert json.loads(watch.line())["value"] == "1.1"
    run("put", url, "other", "2")
    run("put", url, "fx/USD", "1.2")
    assert json.loads(watch.line())["value"] == "1.2"
    run("rm", url, "fx/USD")
    gone = json.loads(watch.line())
    assert (gone["key"], gone["value"], gone["operation"]) == ("fx/USD", "", "DELETE")
    assert watch.signal(signal.SIGINT) == 130
    assert watch.rest_of_errors() == []


def test_watch_prints_plain_lines_on_a_pipe(url: str, start: Start) -> None:
    run("put", url, "fx/USD", "1.1")
    run("put", url, "fx/deep/USD", "1")
    watch = start("watch", url, "--match", "fx/*")
    assert watch.line().split("\t")[:4] == ["PUT", "fx/USD", "float", "1.1"]
    run("rm", url, "fx/USD")
    assert watch.line().split("\t")[:4] == ["DELETE", "fx/USD", "", ""]


def test_a_reader_that_leaves_ends_the_watch_quietly(url: str, start: Start) -> None:
    run("put", url, "key", "1")
    watch = start("watch", url, read=False)
    assert watch.out.readline().startswith(b"PUT\tkey")
    watch.out.close()
    run("put", url, "key", "2")
    assert watch.exit_code() == 0
    assert watch.rest_of_errors() == []


def test_a_reader_that_leaves_ends_ls_quietly(url: str, start: Start) -> None:
    with datastream.open(url) as store:
        store.put_many({f"key/{number}": "x" * 1000 for number in range(1000)})
    listing = start("ls", url, read=False)
    assert listing.out.readline().startswith(b"key/0\t")
    listing.out.close()
    assert listing.exit_code() == 0
    assert listing.rest_of_errors() == []


@pytest.mark.parametrize("name", ["watch", "watch --since"])
def test_ctrl_c_ends_a_watch_whose_reader_has_stopped_reading(
    name: str, tmp_path: Path, start: Start
) -> None:
    """The pipe is full after some thousand lines: the next `write` waits for ever."""
    if name == "watch":
        url, since = f"sqlite:{tmp_path}/big.db", []
        with datastream.open(url) as store:
            store.put_many({f"key/{number}": "x" * 50 for number in range(30_000)})
    else:
        url, since = f"git:{tmp_path}", ["--since", "HEAD~1"]
        Repo.init(tmp_path).close()
        with datastream.open(url, author="Ann", email="ann@example.org") as store:
            store["first"] = 1
            store.put_many({f"key/{number}": "x" * 500 for number in range(1_000)})
    watch = start("watch", url, *since, read=False)
    first = watch.out.readline()
    assert first.startswith(b"PUT\tkey/"), (first, watch.rest_of_errors())
    # Nobody reads: a program that first wrote what it has would never end.
    assert watch.signal(signal.SIGINT) == 130
    assert watch.rest_of_errors() == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_ctrl_c_ends_a_watch_that_prints_to_a_terminal(tmp_path: Path, interruptible: None) -> None:
    import pty

    with datastream.open(f"sqlite:{tmp_path}/big.db") as store:
        store.put_many({f"key/{number}": "x" * 50 for number in range(30_000)})
    ours, theirs = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "datastream.cli",
        "watch",
        "--lines",
        f"sqlite:{tmp_path}/big.db",
    ]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        shown = os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):
            # EIO is how Linux says that the last program left the terminal.
            while more := os.read(ours, 65536):
                shown += more
        assert process.wait(TIMEOUT) == 130
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert shown.count(b"PUT") < 10_000


def test_a_key_that_was_meant_as_a_prefix_is_pointed_out(url: str, start: Start) -> None:
    run("put", url, "fx/USD", "1.1")
    watch = start("watch", url, "fx")
    line = watch.error_line()
    assert line.startswith("datastream: ")
    assert "'fx/'" in line
    run("put", url, "fx", "1")
    assert watch.line().startswith("PUT\tfx\t")
    watch.signal(signal.SIGINT)
    # It is said once.
    assert watch.rest_of_errors() == []


def test_a_reader_that_leaves_a_quiet_watch_ends_it(url: str, start: Start) -> None:
    """As `head -1` does: nothing has to be written for that to be seen."""
    run("put", url, "key", "1")
    watch = start("watch", url, read=False)
    assert watch.out.readline().startswith(b"PUT\tkey")
    watch.out.close()
    assert watch.exit_code() == 0
    assert watch.rest_of_errors() == []


def test_a_watch_of_changes_only_ends_after_some(url: str, start: Start) -> None:
    run("put", url, "old", "1")
    watch = start("watch", url, "--no-initial", "--count", "2")
    number = 0
    # It cannot say when it has begun.
    while watch.process.poll() is None:
        number += 1
        run("put", url, "new", str(number))
    assert watch.exit_code() == 0
    keys = [watch.line().split("\t")[1] for _ in range(2)]
    assert keys == ["new", "new"]
    assert watch.rest_of_errors() == []


@pytest.mark.parametrize("kind", ["sqlite", "git"])
def test_a_watch_goes_on_from_the_cursor_of_an_earlier_one(
    url: str, tmp_path: Path, kind: str
) -> None:
    if kind == "git":
        Repo.init(str(tmp_path / "repository"), mkdir=True).close()
        url = f"git:{tmp_path}/repository"
    run("put", url, "a", "1")
    first = run("watch", url, "--cursors", "--count", "1").stdout.splitlines()
    assert [line.split("\t")[0] for line in first] == ["PUT", "CURSOR"]
    run("put", url, "b", "2")
    run("rm", url, "a")
    since = ("--since", first[1].split("\t")[1])
    shown = run("watch", url, *since, "--cursors", "--json", "--count", "2").stdout
    lines = [json.loads(line) for line in shown.splitlines()]
    changes = [(line["operation"], line["key"]) for line in lines if "key" in line]
    assert changes == [("PUT", "b"), ("DELETE", "a")]
    assert lines[-1].keys() == {"cursor"}
    assert run("import", f"sqlite:{tmp_path}/other.db", stdin=shown.encode()).exit_code == 0


def test_a_cursor_stands_after_what_belongs_together(url: str) -> None:
    with datastream.open(url) as store:
        store.put_many({"a": 1, "b": 2})
    shown = run("watch", url, "--cursors", "--count", "1").stdout
    assert [line.split("\t")[0] for line in shown.splitlines()] == ["PUT"]


def test_a_cursor_that_is_none_is_said(url: str, tmp_path: Path) -> None:
    run("put", url, "a", "1")
    shown = run("watch", url, "--since", "yesterday", "--count", "1")
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert "cannot go on from 'yesterday'" in shown.stderr
    assert run("watch", url, "--cursors", "--exec", "true").exit_code == 2
    refused = run("watch", f"file:{tmp_path}", "--since", "1")
    assert refused.exit_code == 1
    assert "keeps no past" in refused.stderr


def test_a_watch_of_changes_only_begins_with_a_cursor(url: str, start: Start) -> None:
    run("put", url, "a", "1")
    watch = start("watch", url, "--no-initial", "--cursors")
    assert watch.line().startswith("CURSOR\t")
    run("put", url, "b", "2")
    assert watch.line().startswith("PUT\tb\t")
    assert watch.line().startswith("CURSOR\t")


def test_a_pattern_may_be_left_out(url: str) -> None:
    run("put", url, "fx/USD", "1")
    run("put", url, "fx/old/DEM", "2")
    shown = run("watch", url, "fx/", "--exclude", "fx/old/**", "--count", "1")
    assert [line.split("\t")[1] for line in shown.stdout.splitlines()] == ["fx/USD"]


def test_a_command_gets_each_change(url: str, start: Start, tmp_path: Path) -> None:
    run("put", url, "key", "first; exit 3")
    command = f'{{ echo "$DATASTREAM_OPERATION $DATASTREAM_KEY"; cat; }} >> {tmp_path}/log; exit 3'
    watch = start("watch", url, "--exec", command, "--count", "2")
    assert "'key' ended with exit code 3" in watch.error_line()
    run("rm", url, "key")
    assert watch.exit_code() == 0
    assert (tmp_path / "log").read_text() == "PUT key\nfirst; exit 3DELETE key\n"


@pytest.fixture
def with_hangups() -> Iterator[None]:
    """Programs are started as by a terminal, also where ``nohup`` runs the tests."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("with_hangups")
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGHUP, -signal.SIGHUP)],
)
def test_what_ends_a_watch_ends_its_command(
    url: str, start: Start, number: signal.Signals, code: int
) -> None:
    run("put", url, "key", "1")
    # Its end of the pipe is open as long as it lives.
    watch = start("watch", url, "--exec", "echo $$; sleep 600; true", read=False)
    assert watch.out.readline().strip().isdigit()
    assert watch.signal(number) == code
    assert watch.out.read() == b""
    assert watch.rest_of_errors() == []


def test_top_prints_lines_on_a_pipe(url: str, start: Start) -> None:
    run("put", url, "key", "0")
    top = start("top", url, "--interval", "0.1", "--json")
    with datastream.open(url) as store, ThreadPoolExecutor() as threads:
        line = threads.submit(top.line)
        # It cannot say when it has begun.
        while not line.done():
            store["key"] += 1
    assert json.loads(line.result())["key"] == "key"
    assert top.signal(signal.SIGINT) == 130
    assert top.rest_of_errors() == []


class _Receiver(ThreadingHTTPServer):
    """Takes webhooks; the first one is told to come again."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.taken: list[tuple[dict[str, object], str | None]] = []
        self.answers = [503]


class _Handler(BaseHTTPRequestHandler):
    server: _Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.server.answers.pop() if self.server.answers else 200
        if status == 200:
            self.server.taken.append((json.loads(body), self.headers["X-Datastream-Signature"]))
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Not to stderr."""


@pytest.mark.chaos
def test_a_webhook_gets_each_change_signed_and_is_tried_again(
    url: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("put", url, "key", "1")
    monkeypatch.setenv("DATASTREAM_WEBHOOK_SECRET", "s3cret")
    with _Receiver() as receiver:
        threading.Thread(target=receiver.serve_forever).start()
        try:
            address = f"http://127.0.0.1:{receiver.server_address[1]}/hook"
            watch = start("watch", url, "--webhook", address, "--count", "2")
            assert "answered 503" in watch.error_line()
            run("rm", url, "key")
            assert watch.exit_code() == 0
        finally:
            receiver.shutdown()
    (first, signature), (second, _) = receiver.taken
    assert first["key"] == second["key"] == "key"
    assert signature is not None
    assert watch.rest_of_errors() == []
