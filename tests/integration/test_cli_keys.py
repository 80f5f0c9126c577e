"""`datastream ls get put rm` with their options, `status`, `history` and layers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dulwich.repo import Repo

import datastream
from tests.integration.command_line import run


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:{tmp_path / 'store.db'}"
    with datastream.open(url) as store:
        store.put_many({"a": 1, "fx": "rates", "fx/USD": 1.1, "fx/old/DEM": 2.0, "fxx": 3})
    return url


@pytest.fixture
def git(tmp_path: Path) -> str:
    folder = tmp_path / "repository"
    folder.mkdir()
    Repo.init(folder).close()
    url = f"git:{folder}"
    with datastream.open(url, author="Ann", email="ann@example.org") as store:
        store.put("limits", {"rps": 1}, message="first")
        store.put("limits", {"rps": 2}, message="second")
    return url


def keys(*arguments: str) -> list[str]:
    result = run("ls", *arguments)
    assert result.exit_code == 0, result.stderr
    return [line.split("\t")[0] for line in result.stdout.splitlines()]


@pytest.mark.parametrize("more", [(), ("--keys-only",), ("--long",)])
def test_ls_takes_prefixes_and_patterns(url: str, more: tuple[str, ...]) -> None:
    assert keys(url, *more) == ["a", "fx", "fx/USD", "fx/old/DEM", "fxx"]
    assert keys(url, "fx", *more) == ["fx", "fx/USD", "fx/old/DEM"]
    assert keys(url, "fx/", "a", *more) == ["a", "fx/USD", "fx/old/DEM"]
    assert keys(url, "--match", "fx/*", *more) == ["fx/USD"]
    assert keys(url, "fx", "--exclude", "**/old/**", *more) == ["fx", "fx/USD"]
    assert keys(url, "nothing", *more) == []


def test_keys_alone_are_json_too(url: str) -> None:
    lines = run("ls", url, "fx/", "--keys-only", "--json").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [{"key": "fx/USD"}, {"key": "fx/old/DEM"}]


def test_ls_long_has_size_and_revision(url: str) -> None:
    (line,) = run("ls", url, "a", "--long").stdout.splitlines()
    with datastream.open(url) as store:
        assert line.split("\t")[4:] == ["1", store.entry("a").revision]


def test_get_has_a_default(url: str) -> None:
    assert run("get", url, "missing", "--default", "none").stdout == "none\n"
    assert run("get", url, "a", "--default", "none").stdout == "1\n"
    assert run("get", url, "missing", "--default", "none", "--json").exit_code == 2


@pytest.mark.parametrize(
    ("command", "key", "words"),
    [
        ("get", "fx/old", "lists what lies below it"),
        ("rm", "fx/old", "add --prefix"),
        ("get", "fx/*", "--match selects by pattern"),
        ("rm", "nope", "datastream ls URL lists its keys"),
    ],
)
def test_a_key_that_holds_nothing_is_told_with_what_to_do(
    url: str, command: str, key: str, words: str
) -> None:
    told = run(command, url, key)
    assert told.exit_code == 1
    assert f"holds nothing at '{key}'; " in told.stderr
    assert words in told.stderr


def test_a_default_is_not_for_a_store_that_is_not_there(tmp_path: Path) -> None:
    missing = run("get", f"sqlite:{tmp_path}/typo.db", "key", "--default", "none")
    assert (missing.exit_code, missing.stdout) == (1, "")


def test_the_past_is_read(git: str) -> None:
    newest, first = run("history", git, "limits").stdout.splitlines()
    assert newest.split("\t")[-1] == "second"
    point = first.split("\t")[1]
    assert run("get", git, "limits", "--at", point).stdout == '{"rps":1}\n'
    assert run("get", git, "limits").stdout == '{"rps":2}\n'
    assert len(run("ls", git, "--at", point).stdout.splitlines()) == 1
    assert run("history", git, "limits", "--count", "1").stdout.splitlines() == [newest]


def test_a_key_without_a_past_is_an_error(git: str) -> None:
    result = run("history", git, "typo")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "'typo' never held anything" in result.stderr


def test_put_expects_a_revision(url: str) -> None:
    revision = json.loads(run("get", url, "a", "--json").stdout)["revision"]
    assert run("put", url, "a", "2", "--expect", revision).exit_code == 0
    refused = run("put", url, "a", "3", "--expect", revision)
    assert refused.exit_code == 1
    assert "expected revision" in refused.stderr
    assert run("put", url, "a", "3", "--expect", "").exit_code == 1
    assert run("put", url, "new", "3", "--expect", "").exit_code == 0
    assert run("get", url, "a").stdout == "2\n"


def test_put_reads_stdin_when_told(url: str) -> None:
    assert run("put", url, "text", "--stdin", stdin=b"one\ntwo\n").exit_code == 0
    assert run("get", url, "text").stdout == "one\ntwo\n"
    assert run("put", url, "text", "x", "--stdin").exit_code == 2
    assert run("put", url, "text").exit_code == 2


@pytest.mark.parametrize("option", ["--stdn", "--stdn=x", "--json=", "--nothing-like-it"])
def test_put_takes_no_option_that_is_misspelt_for_a_value(url: str, option: str) -> None:
    before = run("get", url, "a").stdout
    refused = run("put", url, "a", option, stdin=b"new")
    assert refused.exit_code == 2
    assert option.partition("=")[0] in refused.stderr
    assert run("get", url, "a").stdout == before


def test_put_takes_values_that_begin_with_dashes(url: str) -> None:
    for arguments, value in (
        (("-5",), b"-5"),
        (("-x",), b"-x"),
        (("--type", "str", "-5"), b"-5"),
        (("--type=str", "-"), b"--stdn"),
        (("--json", "--", "--stdn"), b"--stdn"),
    ):
        assert run("put", url, "a", *arguments, stdin=b"--stdn").exit_code == 0
        assert run("get", url, "a").stdout_bytes == value + b"\n"


def test_put_and_rm_say_why_where_that_is_kept(git: str, url: str) -> None:
    author = "Bo <bo@example.org>"
    put = run("put", git, "limits", "3", "--message", "load test", "--author", author)
    assert put.exit_code == 0
    assert run("rm", git, "limits", "-m", "not used").exit_code == 0
    gone, newest, *_ = run("history", git, "limits").stdout.splitlines()
    assert newest.split("\t")[3:] == [author, "3", "load test"]
    assert gone.split("\t")[-1] == "not used"
    assert run("put", url, "a", "3", "--message", "why").exit_code == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("itn", "did you mean int?"),
        ("string", "did you mean str?"),
        ("nonsense", "give one of int, float"),
        ("é", "give one of int, float"),
        ("aplication/json", "did you mean application/json?"),
        ("application/jsn", "did you mean application/json?"),
        ("text/", "no media type"),
    ],
)
def test_a_type_nobody_reads_is_refused(url: str, name: str, words: str) -> None:
    result = run("put", url, "a", "2", "--type", name)
    assert result.exit_code == 2
    assert words in result.stderr
    assert run("get", url, "a").stdout == "1\n"


@pytest.mark.parametrize("name", ["application/jsonl", "image/png", "text/csv; charset=utf-8"])
def test_other_media_types_are_kept(url: str, name: str) -> None:
    assert run("put", url, "a", "2", "--type", name).exit_code == 0
    assert json.loads(run("get", url, "a", "--json").stdout)["value_type"] == name


def test_rm_takes_several_keys_or_none_of_them(url: str) -> None:
    assert run("rm", url, "a", "missing").exit_code == 1
    assert run("rm", url, "a", "fx", "--expect", "x").exit_code == 2
    assert run("rm", url).exit_code == 2
    assert run("rm", url, "a", "--expect", "x").exit_code == 1
    assert keys(url) == ["a", "fx", "fx/USD", "fx/old/DEM", "fxx"]
    assert run("rm", url, "a", "fx").exit_code == 0
    assert keys(url) == ["fx/USD", "fx/old/DEM", "fxx"]


def test_rm_of_a_prefix_wants_a_yes(url: str) -> None:
    refused = run("rm", url, "fx", "--prefix")
    assert refused.exit_code == 1
    assert "would remove 2 keys" in refused.stderr
    assert len(keys(url)) == 5
    assert run("rm", url, "fx", "--prefix", "--yes", "--exclude", "**/DEM").exit_code == 0
    assert keys(url) == ["a", "fx", "fx/old/DEM", "fxx"]
    assert run("rm", url, "--match", "**", "-y").exit_code == 0
    assert keys(url) == []


def test_status_says_how_a_store_stands(url: str) -> None:
    lines = dict(
        line.split(maxsplit=1) for line in run("status", url).stdout.splitlines() if " " in line
    )
    assert (lines["store"], lines["state"], lines["keys"]) == (url, "READY", "5")
    assert "compare_and_set" in lines["features"]
    away = run("status", "grpc://127.0.0.1:1", "--json")
    assert away.exit_code == 1
    found = json.loads(away.stdout)
    assert (found["state"], found["keys"]) == ("STALE", None)
    assert "check the address" in found["error"]


# Layers.


@pytest.fixture
def layers(tmp_path: Path, url: str) -> str:
    path = tmp_path / "layers.toml"
    path.write_text(
        'layers = ["sqlite:local.db", "sqlite:store.db"]\noptional = ["sqlite:local.db"]\n'
    )
    return f"overlay:{path}"


def test_layers_are_one_store(layers: str, tmp_path: Path) -> None:
    assert run("get", layers, "a").stdout == "1\n"
    assert not (tmp_path / "local.db").exists()
    assert run("put", layers, "a", "2").exit_code == 0
    assert run("get", layers, "a").stdout == "2\n"
    assert run("get", f"sqlite:{tmp_path}/store.db", "a").stdout == "1\n"
    assert run("rm", layers, "a").exit_code == 0
    assert run("get", layers, "a").stdout == "1\n"


def test_what_a_lower_layer_holds_is_hidden_by_rm(layers: str, url: str, tmp_path: Path) -> None:
    refused = run("rm", layers, "a")
    assert (refused.exit_code, "or hide it with --hide" in refused.stderr) == (1, True)
    assert run("rm", layers, "a", "--hide").exit_code == 0
    assert run("get", layers, "a").exit_code == 1
    assert run("get", url, "a").stdout == "1\n"
    assert run("rm", layers, "--match", "**", "--hide", "--yes").exit_code == 0
    assert run("ls", layers).stdout == ""
    assert run("rm", layers, "a", "--hide").exit_code == 1
    assert "--hide is for layers" in run("rm", url, "a", "--hide").stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("layers = [", "is no TOML"),
        ("layers = []", "wants layers = [URL"),
        ("layers = ['memory:']\noptinal = []", "did you mean optional?"),
        ("layers = ['gopher://x']", "no source for 'gopher'"),
    ],
)
def test_a_file_of_layers_that_is_none_says_so(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "layers.toml"
    path.write_text(text)
    result = run("ls", f"overlay:{path}")
    assert result.exit_code == 1
    assert words in result.stderr


def test_a_file_of_layers_that_is_not_there_says_so(tmp_path: Path) -> None:
    assert "No such file" in run("ls", f"overlay:{tmp_path}/typo.toml").stderr


def test_layers_of_another_file_stand_in_its_place(layers: str, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    more = tmp_path / "more" / "more.toml"
    more.write_text(
        'layers = ["sqlite:mine.db", "overlay:../layers.toml"]\noptional = ["sqlite:mine.db"]\n'
    )
    assert run("get", f"overlay:{more}", "a").stdout == "1\n"
    assert run("put", f"overlay:{more}", "a", "3").exit_code == 0
    assert (tmp_path / "more" / "mine.db").exists()
    assert run("get", f"overlay:{more}", "a").stdout == "3\n"
    assert run("get", layers, "a").stdout == "1\n"


def test_a_file_of_layers_within_another_may_be_written_and_optional(
    layers: str, url: str, tmp_path: Path
) -> None:
    inner = tmp_path / "layers.toml"
    outer = tmp_path / "outer.toml"
    outer.write_text(
        'layers = ["env:NOSUCH_", "overlay:layers.toml"]\nwrite = "overlay:layers.toml"'
    )
    refused = run("ls", f"overlay:{outer}")
    assert (refused.exit_code, "does not say which of its layers" in refused.stderr) == (1, True)
    inner.write_text('layers = ["sqlite:gone.db", "sqlite:store.db"]\nwrite = "sqlite:store.db"')
    assert "gone.db" in run("ls", f"overlay:{outer}").stderr
    text = outer.read_text()
    outer.write_text(text + '\noptional = "overlay:layers.toml"')
    assert "optional = [URL, …]" in run("ls", f"overlay:{outer}").stderr
    outer.write_text(text + '\noptional = ["overlay:layers.toml"]')
    assert run("put", f"overlay:{outer}", "a", "4").exit_code == 0
    assert run("get", url, "a").stdout == "4\n"


def test_files_of_layers_that_name_each_other_are_refused(tmp_path: Path) -> None:
    for one, other in (("a", "b"), ("b", "c"), ("c", "a"), ("self", "self")):
        (tmp_path / f"{one}.toml").write_text(f'layers = ["overlay:{other}.toml"]')
    for name in ("a", "self"):
        result = run("ls", f"overlay:{tmp_path}/{name}.toml")
        assert (result.exit_code, "which names it in turn" in result.stderr) == (1, True)


# A shell that completes.


def completed(*words: str) -> list[str]:
    import click.shell_completion as shells

    from datastream.cli import main

    complete = shells.ShellComplete(main, {}, "datastream", "_DATASTREAM_COMPLETE")
    return [item.value for item in complete.get_completions(list(words[:-1]), words[-1])]


def test_commands_options_urls_and_keys_are_completed(url: str, tmp_path: Path) -> None:
    assert completed("hist") == ["history"]
    assert completed("put", "--exp") == ["--expect"]
    assert completed("ls", "sql") == ["sqlite:"]
    assert completed("ls", f"sqlite:{tmp_path}/st") == [url]
    assert completed("get", url, "fx") == ["fx", "fx/", "fxx"]
    assert completed("get", url, "fx/") == ["fx/USD", "fx/old/"]
    assert completed("get", f"sqlite:{tmp_path}/typo.db", "fx") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_given_its_script(shell: str) -> None:
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_DATASTREAM_COMPLETE" in result.stdout
