"""The command line: in this process where that says as much, as real processes where not."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import IO

import pytest
from click.testing import CliRunner, Result
from dulwich.repo import Repo

import datastream
from datastream.cli import main
from datastream.cli._words import in_our_words

TIMEOUT = 20.0
FIELDS = ["key", "value", "value_type", "updated_at", "revision", "operation"]


def run(*arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, arguments, input=stdin, prog_name="datastream")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'store.db'}"


class Program:
    """A ``datastream`` process whose output is read line by line, with a time limit."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "datastream.cli", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.out, self.err = self.process.stdout, self.process.stderr
        self._lines: dict[IO[bytes], Queue[str]] = {}
        self._readers = [self._read(self.err)]

    def read_output(self) -> None:
        self._readers.append(self._read(self.out))

    def line(self) -> str:
        """The next line of stdout."""
        return self._lines[self.out].get(timeout=TIMEOUT)

    def error_line(self) -> str:
        return self._lines[self.err].get(timeout=TIMEOUT)

    def signal(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.exit_code()

    def exit_code(self) -> int:
        return self.process.wait(TIMEOUT)

    def rest_of_errors(self) -> list[str]:
        self._readers[0].join(TIMEOUT)
        lines = self._lines[self.err]
        return [lines.get() for _ in range(lines.qsize())]

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join(TIMEOUT)
        self.out.close()
        self.err.close()

    def _read(self, stream: IO[bytes]) -> Thread:
        lines = self._lines[stream] = Queue()

        def pump() -> None:
            for line in stream:
                lines.put(line.decode().rstrip("\n"))

        thread = Thread(target=pump)
        thread.start()
        return thread


Start = Callable[..., Program]


@pytest.fixture
def start() -> Iterator[Start]:
    programs: list[Program] = []
    # A shell that runs the tests in the background has them, and so their children, ignore it.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def start(*arguments: str, read: bool = True) -> Program:
        programs.append(Program(*arguments))
        if read:
            programs[-1].read_output()
        return programs[-1]

    yield start
    for program in programs:
        program.end()
    signal.signal(signal.SIGINT, before)


# put and get.


@pytest.mark.parametrize(
    ("text", "value_type", "value"),
    [
        ("20", "int", 20),
        ("-5", "int", -5),
        ("1.1383", "float", 1.1383),
        ("-1e-3", "float", -0.001),
        ("true", "bool", True),
        ("false", "bool", False),
        ('{"rps": 9}', "json", {"rps": 9}),
        ("[1, 2]", "json", [1, 2]),
        ("[1, 2", "str", "[1, 2"),
        ("hello world", "str", "hello world"),
        ("", "str", ""),
        ("007", "str", "007"),
        ("1_000", "str", "1_000"),
        ("nan", "str", "nan"),
        ("NaN", "str", "NaN"),
        ("null", "str", "null"),
        ('"quoted"', "str", '"quoted"'),
        ("Zürich", "str", "Zürich"),
    ],
)
def test_put_infers_the_type(url: str, text: str, value_type: str, value: object) -> None:
    assert run("put", url, "key", text).exit_code == 0
    with datastream.open(url) as store:
        assert store.entry("key").value_type == value_type
        assert store["key"] == value


def test_put_with_a_type_takes_the_text_as_that_type(url: str) -> None:
    assert run("put", url, "zip", "01234", "--type", "str").exit_code == 0
    assert run("put", url, "ratio", "1", "--type", "float").exit_code == 0
    with datastream.open(url) as store:
        assert store["zip"] == "01234"
        assert store["ratio"] == 1.0
        assert isinstance(store["ratio"], float)


def test_put_refuses_what_does_not_fit_the_type_and_writes_nothing(
    url: str, tmp_path: Path
) -> None:
    result = run("put", url, "port", "eighty", "--type", "int")
    assert result.exit_code == 1
    assert result.stderr.startswith("datastream: ")
    assert "'port'" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_put_reads_bytes_from_stdin_and_get_gives_them_back(url: str) -> None:
    data = bytes(range(256)) + b"\n"
    assert run("put", url, "blob", "-", stdin=data).exit_code == 0
    assert run("get", url, "blob").stdout_bytes == data


def test_text_stored_as_bytes_comes_back_unchanged(url: str) -> None:
    assert run("put", url, "note", "-", "--type", "bytes", stdin=b"no newline").exit_code == 0
    assert run("get", url, "note").stdout_bytes == b"no newline"


def test_a_number_from_stdin_loses_its_newline(url: str) -> None:
    run("put", url, "inferred", "-", stdin=b"42\n")
    run("put", url, "typed", "-", "--type", "int", stdin=b"42\n")
    with datastream.open(url) as store:
        assert store.entry("inferred")[1:3] == store.entry("typed")[1:3] == (b"42", "int")


def test_get_ends_text_with_a_newline(url: str) -> None:
    run("put", url, "city", "Zürich")
    assert run("get", url, "city").stdout_bytes == "Zürich\n".encode()


def test_get_of_a_missing_key_says_so(url: str) -> None:
    run("put", url, "there", "1")
    result = run("get", url, "missing")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "'missing'" in result.stderr
    assert result.stderr.count("\n") == 1


def test_rm_removes_and_then_has_nothing_to_remove(url: str) -> None:
    run("put", url, "key", "1")
    assert run("rm", url, "key").exit_code == 0
    assert run("rm", url, "key").exit_code == 1
    assert run("ls", url).stdout == ""


# What is printed.


def test_json_has_every_field(url: str) -> None:
    put = json.loads(run("put", url, "key", "20", "--json").stdout)
    assert list(put) == FIELDS
    assert (put["key"], put["value"], put["value_type"], put["operation"]) == (
        "key", "20", "int", "PUT",
    )  # fmt: skip
    assert json.loads(run("get", url, "key", "--json").stdout) == put
    assert json.loads(run("ls", url, "--json").stdout) == put


def test_json_marks_what_is_no_text(url: str) -> None:
    run("put", url, "blob", "-", stdin=b"\xff\x00")
    (line,) = run("ls", url, "--json").stdout.splitlines()
    entry = json.loads(line)
    assert list(entry) == [*FIELDS, "encoding"]
    assert entry["encoding"] == "base64"
    assert base64.b64decode(entry["value"]) == b"\xff\x00"


def test_json_without_a_time_says_null(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "plain.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table data (key text primary key, value)")
        connection.execute("insert into data values ('a', 1)")
    connection.close()
    assert json.loads(run("ls", f"sqlite:{path}", "--json").stdout)["updated_at"] is None


def test_ls_prints_sorted_tab_separated_lines(url: str) -> None:
    run("put", url, "b", "two\tcolumns\nand \x1b[31mred")
    run("put", url, "a", "1")
    first, second = run("ls", url).stdout.splitlines()
    assert first.split("\t")[:3] == ["a", "int", "1"]
    assert second.split("\t")[:3] == ["b", "str", r"two\tcolumns\nand \x1b[31mred"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_gets_a_table_and_no_escapes_of_a_value(url: str) -> None:
    run("put", url, "evil", "\x1b]0;owned\x07" + "x" * 200)
    run("put", url, "fx/USD", "1.1383")
    shown = on_terminal("ls", url)
    assert [line.split()[:2] for line in shown.splitlines()] == [
        ["key", "type"], ["evil", "str"], ["fx/USD", "float"], ["2", "keys"],
    ]  # fmt: skip
    assert "\x1b" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def on_terminal(*arguments: str) -> str:
    """What a plain terminal of 80 columns is sent."""
    import pty

    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "dumb", "COLUMNS": "80"}
    subprocess.run(
        [sys.executable, "-m", "datastream.cli", *arguments],
        stdout=theirs,
        env=environment,
        check=True,
        timeout=TIMEOUT,
    )
    os.close(theirs)
    with open(ours, "rb", buffering=0) as terminal:
        return terminal.read(65536).decode()


# Exit codes.


@pytest.mark.parametrize("command", [["ls"], ["get", "key"], ["rm", "key"], ["watch"]])
def test_reading_creates_no_database(command: list[str], url: str, tmp_path: Path) -> None:
    name, *rest = command
    result = run(name, url, *rest)
    assert result.exit_code == 1
    assert result.stderr.startswith("datastream: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["ls"], ["put", "memory:", "key"], ["ls", "memory:", "--nonsense"], ["nonsense"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ls", "settings.db"], "such as sqlite:settings.db"),
        (["ls", "sqlite:x.db?tabel=t"], "did you mean table?"),
        (["ls", "sqlite:x.db?tabel=t"], "value, value_type"),
        (["ls", "sqlite:x.db?create=banana"], "true or false, not 'banana'"),
        (["ls", "localhost:8080"], "grpc://host:port"),
        (["ls", "grpc://127.0.0.1:1"], "check the address"),
        (["ls", "grpc://h:1?credentials=x"], "a command cannot give it"),
        (["ls", "git+ssh://h/x?ssh_command=x"], "a command cannot give it"),
        (["ls", "http://127.0.0.1:1/"], "check the URL"),
        (["ls", "postgresql://u:s3/cret@h/d"], "write them as %2F"),
        (["serve", "memory:", "--address", "nonsense"], "write host:port"),
        (["put", "memory:", "k", "x", "--type", "é"], "no type for"),
    ],
)
def test_errors_are_in_words_of_the_command_line(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert words in result.stderr
    assert not re.search(r"open\(|create=True|in code|Error:", result.stderr)
    assert "s3/cret" not in result.stderr


@pytest.mark.parametrize("pace", ["nan", "inf", "-1", "soon"])
def test_a_pace_is_a_number_of_seconds(pace):
    assert run("demo", "--pace", pace).exit_code == 2


def test_nothing_that_is_printed_speaks_to_the_terminal(tmp_path):
    url = f"sqlite:{tmp_path}/a.db"
    odd = "a\x1b[31m\x9b\x7f\u202e\u2028b"
    with datastream.open(url) as store:
        store[odd] = odd
    for arguments in (["ls", url], ["ls", url, "--json"], ["put", url, odd, odd, "--json"]):
        line = run(*arguments).stdout.removesuffix("\n")
        assert line.replace("\t", " ").isprintable()
    assert json.loads(run("get", url, odd, "--json").stdout)["value"] == odd


def test_an_unknown_scheme_is_one_line_on_stderr() -> None:
    result = run("ls", "gopher://hole")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("datastream: no source for 'gopher'")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [["serve", "memory:"], ["demo"]])
def test_a_missing_transport_names_the_extra(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datastream_grpc", None)
    result = run(*arguments)
    assert result.exit_code == 1
    assert 'pip install "datastream-kv[grpc]"' in result.stderr


def test_version() -> None:
    assert run("--version").stdout.startswith("datastream, version ")


def test_the_library_loads_no_command_line() -> None:
    code = "import sys, datastream; print({'click', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == "set()\n"


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
def test_ctrl_c_ends_a_watch_that_prints_to_a_terminal(tmp_path: Path) -> None:
    import pty

    with datastream.open(f"sqlite:{tmp_path}/big.db") as store:
        store.put_many({f"key/{number}": "x" * 50 for number in range(30_000)})
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "datastream.cli", "watch", f"sqlite:{tmp_path}/big.db"]
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


# What goes wrong, in words of the command line.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["get", "URL", "missing"], "datastream ls URL lists its keys"),
        (["watch", "URL", "fx/*"], "did you mean --match 'fx/*'?"),
        (["watch", "URL", "--match", "fx/{A,B}"], "--match"),
        (["watch", "URL", "--since", "v1.0"], "history=true in the URL"),
        (["history", "URL", "key"], "history=true in the URL"),
        (["put", "URL", "port", "eighty", "--type", "int"], "'eighty' for 'port' is no int"),
        (["ls", "sqlite:nowhere.db"], "put a first value to make it"),
        (["ls", "file:nowhere"], "create=true in the URL"),
    ],
)
def test_advice_is_for_the_command_line(url: str, arguments: list[str], words: str) -> None:
    run("put", url, "key", "1")
    result = run(*(url if argument == "URL" else argument for argument in arguments))
    assert result.exit_code == 1
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    for python in ("=True", "=False", "match=", "store)", "()", "value_type", "entry.value"):
        assert python not in result.stderr


def test_what_is_quoted_stays_as_it_is() -> None:
    assert in_our_words("'hidden=True' is hidden (hidden=True takes it)") == (
        "'hidden=True' is hidden (hidden=true in the URL takes it)"
    )


def test_text_from_elsewhere_is_escaped_in_errors(url: str) -> None:
    run("put", url, "key", "1")
    result = run("get", url, "\x1b[31mred")
    assert "\x1b" not in result.stderr
    result = run("ls", "gopher\x1b[31m://hole")
    assert "\x1b" not in result.stderr


def test_a_key_that_was_meant_as_a_prefix_is_pointed_out(url: str, start: Start) -> None:
    run("put", url, "fx/USD", "1.1")
    watch = start("watch", url, "fx")
    line = watch.error_line()
    assert line.startswith("datastream: ")
    assert "'fx/'" in line
    run("put", url, "fx", "1")
    assert watch.line().startswith("PUT\tfx\t")


# serve.


def served(start: Start, url: str, *options: str) -> tuple[Program, str]:
    server = start("serve", url, "--address", "127.0.0.1:0", *options)
    announcement, _, address = server.line().rpartition(" on ")
    assert announcement == f"serving {url}"
    assert not address.endswith(":0")
    return server, f"grpc://{address}"


def test_serve_lets_others_read_write_and_watch(url: str, start: Start) -> None:
    server, remote = served(start, url)
    watch = start("watch", remote, "limits", "--json")
    assert run("put", remote, "limits", '{"rps": 9}').exit_code == 0
    assert json.loads(watch.line())["value"] == '{"rps": 9}'
    assert run("get", remote, "limits").stdout == '{"rps": 9}\n'
    assert run("get", url, "limits").stdout == '{"rps": 9}\n'
    assert run("rm", remote, "limits").exit_code == 0
    assert json.loads(watch.line())["operation"] == "DELETE"
    assert server.signal(signal.SIGTERM) == 0
    assert server.rest_of_errors() == []
    assert watch.error_line().startswith("datastream: STALE: ")
    assert watch.signal(signal.SIGINT) == 130


def test_serve_ends_on_ctrl_c(start: Start) -> None:
    server, _ = served(start, "memory:")
    assert server.signal(signal.SIGINT) == 130
    assert server.rest_of_errors() == []


def test_serve_refuses_other_machines_without_tls_and_proof() -> None:
    refused = run("serve", "memory:", "--address", "0.0.0.0:0")
    assert refused.exit_code == 1
    assert "--insecure" in refused.output
    assert "in code" not in refused.output
    half = run("serve", "memory:", "--tls-cert", "server.pem")
    assert half.exit_code == 2
    assert "--tls-key" in half.output


def test_serve_may_only_be_read_and_only_with_a_token(tmp_path: Path, start: Start) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("secret")
    args = ("--address", "127.0.0.1:0", "--read-only", "--token-file", str(tokens))
    server = start("serve", "memory:", *args)
    address = server.line().rpartition(" ")[2]
    assert run("ls", f"grpc://{address}").exit_code == 1
    assert run("ls", f"grpc://{address}?token_file={tokens}").exit_code == 0
    written = run("put", f"grpc://{address}?token_file={tokens}", "k", "1")
    assert written.exit_code == 1
    assert "only be read" in written.output


def test_serve_says_that_the_address_is_in_use(start: Start) -> None:
    _, remote = served(start, "memory:")
    second = start("serve", "memory:", "--address", remote.removeprefix("grpc://"))
    assert second.exit_code() == 1
    (error,) = second.rest_of_errors()
    assert error.startswith("datastream: ")


def test_serve_logs_its_calls_when_asked(start: Start) -> None:
    server, remote = served(start, "memory:", "--verbose")
    run("put", remote, "key", "1")
    assert server.error_line()


def test_files_hold_what_was_typed(tmp_path: Path) -> None:
    url = f"file:{tmp_path}"
    for value in ("1.10", "007", "two\n", "{not json"):
        assert run("put", url, "x", value).exit_code == 0
        assert (tmp_path / "x").read_text() == value
        assert run("get", url, "x").stdout == value.removesuffix("\n") + "\n"
    assert run("put", url, "x", "12", "--type", "str").exit_code == 1
