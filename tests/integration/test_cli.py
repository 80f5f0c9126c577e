"""The command line: one answer each, and what goes wrong."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

import datastream
from datastream.cli._words import in_our_words
from tests.integration.command_line import TIMEOUT, run


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'store.db'}"


HEAVY = {
    "rich",
    "sqlite_utils",
    "numpy",
    "pandas",
    "dulwich",
    "fsspec",
    "grpc",
    "tenacity",
    "httpx",
}
FIELDS = ["key", "value", "value_type", "updated_at", "revision", "operation"]


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
        (["serve", "memory:", "--address", "127.0.0.1:high"], "choose another"),
        (["put", "env:APP_", "x", "1"], "can only be read: variables are set where"),
        (["put", "zip:old.zip", "x", "1"], "can only be read: it is an archive"),
    ],
)
def test_errors_are_in_words_of_the_command_line(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ZipFile("old.zip", "w").close()
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


@pytest.mark.parametrize("module", ["datastream", "datastream.cli"])
def test_it_is_a_module_too(module: str) -> None:
    command = [sys.executable, "-m", module, "--version"]
    done = subprocess.run(command, capture_output=True, check=True, text=True, timeout=TIMEOUT)
    assert done.stdout.startswith("datastream, version ")


def test_the_library_loads_no_command_line() -> None:
    code = "import sys, datastream; print({'click', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == "set()\n"


def test_an_answer_loads_only_what_it_needs(url: str) -> None:
    run("put", url, "key", "1")
    code = (
        "import sys; from datastream.cli import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        f"print({HEAVY} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, "get", url, "key"]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert done.stdout == "1\nset()\n"


# What goes wrong, in words of the command line.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["get", "URL", "missing"], "datastream ls URL lists its keys"),
        (["watch", "URL", "fx/*"], "did you mean --match 'fx/*'?"),
        (["watch", "URL", "--match", "fx/{A,B}"], "--match"),
        (["watch", "URL", "--since", "v1.0"], "history=true in the URL"),
        (["history", "URL", "key"], "history=true in the URL"),
        (["serve", "sqlite:nowhere.db"], "put a first value to make it"),
        (["rm", "URL", "fx/"], "add --prefix"),
        (["import", "URL", "nowhere.tar"], "'nowhere.tar': No such file or directory; check the"),
        (["export", "URL", "-o", "no/where"], "No such file or directory; check the path"),
        (["mv", "URL", "fx/", "rates/"], "holds nothing below 'fx/'"),
        (["rm", "URL", "--match", "*"], "add --yes"),
        (["rm", "URL", "fx", "--prefix", "--yes"], "holds no such key"),
        (["put", "URL", "port", "eighty", "--type", "int"], "'eighty' for 'port' is no int"),
        (["ls", "sqlite:nowhere.db"], "put a first value to make it"),
        (["ls", "file:nowhere"], "create=true in the URL"),
        (["ls", f"file:{__file__}"], "it is a file; name the directory that holds it"),
        (["ls", f"file:{__file__}?create=true"], "it is a file; name the directory"),
        (
            ["cp", "URL", "sqlit:there.db"],
            "no source for 'sqlit' in 'sqlit:there.db'; did you mean sqlite",
        ),
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


def test_files_hold_what_was_typed(tmp_path: Path) -> None:
    url = f"file:{tmp_path}"
    for value in ("1.10", "007", "two\n", "{not json"):
        assert run("put", url, "x", value).exit_code == 0
        assert (tmp_path / "x").read_text() == value
        assert run("get", url, "x").stdout == value.removesuffix("\n") + "\n"
    assert run("put", url, "x", "12", "--type", "str").exit_code == 1
