"""`datastream cp mv export import diff mirror`: between stores, and out of them."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import tarfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import datastream
from datastream.cli import _progress
from tests.integration.command_line import TIMEOUT, Start, run

VALUES = {"a": 1, "fx/USD": 1.1, "fx/old/DEM": "two\nlines", "blob": b"\xff\x00", "obj": {"x": [1]}}


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:{tmp_path}/store.db"
    with datastream.open(url) as store:
        store.put_many(VALUES)
    return url


@pytest.fixture
def other(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path}/other.db"


def content(url: str) -> dict[str, tuple[bytes, str]]:
    with datastream.open(url) as store:
        return {key: (entry.value, entry.value_type) for key, entry in store.snapshot().items()}


# cp and mv.


def test_a_store_is_copied_and_what_is_equal_is_not_written_again(url: str, other: str) -> None:
    assert run("cp", url, other).stdout == "5 keys written\n"
    assert content(other) == content(url)
    run("put", url, "a", "2")
    run("put", other, "beside", "1")
    assert run("cp", url, other).stdout == "1 keys written\n"
    assert content(other) == content(url) | {"beside": (b"1", "int")}


def test_a_prefix_stands_for_another_one_in_the_other_store(url: str, other: str) -> None:
    words = ("--from-prefix", "fx", "--to-prefix", "rates/")
    assert run("cp", url, other, *words).stdout == "2 keys written\n"
    assert set(content(other)) == {"rates/USD", "rates/old/DEM"}
    assert run("diff", url, other, *words).stdout == ""
    run("put", other, "rates/USD", "2.5")
    assert run("diff", url, other, *words, "--keys-only").stdout == "~\tfx/USD\n"
    assert run("mirror", url, other, *words, "--once", "--on-conflict", "source").exit_code == 0
    assert content(other)["rates/USD"] == (b"1.1", "float")
    assert run("mv", url, other, "--to-prefix", "all", "a").stdout == "1 keys written\n"
    assert content(other)["all/a"] == (b"1", "int")
    assert "a" not in content(url)
    assert run("cp", url, "a", "b", *words).exit_code == 2


def test_some_keys_are_copied(url: str, other: str) -> None:
    assert run("cp", url, other, "fx/", "a", "--exclude", "**/DEM").exit_code == 0
    assert set(content(other)) == {"a", "fx/USD"}
    refused = run("cp", url, other, "--no-clobber", "--match", "**")
    assert refused.exit_code == 0  # what is equal is not written
    run("put", other, "a", "2")
    assert run("cp", url, other, "--no-clobber").exit_code == 1
    assert content(other)["a"] == (b"2", "int")


@pytest.mark.parametrize("command", ["cp", "mv"])
def test_a_key_that_was_misspelt_is_said(command: str, url: str, other: str) -> None:
    for keys, words in (
        (["a", "nope"], "holds nothing at 'nope'"),
        (["fx"], "for all below it, write 'fx/'"),
    ):
        done = run(command, url, other, *keys)
        assert (done.exit_code, words in done.stderr) == (1, True), done.stderr
    done = run(command, url, "a", other)
    assert (done.exit_code, "before the keys" in done.stderr) == (2, True)
    assert set(content(url)) == set(VALUES)
    assert content(other) == {}


def test_a_store_is_moved(url: str, other: str) -> None:
    before = content(url)
    run("put", other, "a", "1")
    assert run("mv", url, other, "a", "fx/").exit_code == 0
    assert set(content(url)) == {"blob", "obj"}
    assert run("mv", url, other).exit_code == 0
    assert content(url) == {}
    assert content(other) == before


def test_a_key_that_looks_like_a_pattern_is_moved(other: str, tmp_path: Path) -> None:
    source = f"sqlite:{tmp_path}/odd.db"
    with datastream.open(source) as store:
        store["*"] = 1
    assert run("mv", source, other).exit_code == 0
    assert content(source) == {}
    assert set(content(other)) == {"*"}


def test_a_store_is_not_moved_into_itself(url: str, tmp_path: Path) -> None:
    before = content(url)
    (tmp_path / "link.db").symlink_to(tmp_path / "store.db")
    for target in (url, f"sqlite:{tmp_path}/link.db"):
        refused = run("mv", url, target)
        assert refused.exit_code == 1
        assert "are the same place; nothing was moved" in refused.stderr
        assert content(url) == before


@pytest.mark.parametrize("values", [(1, 2, 3), (1, 1, 1)], ids=["others", "equal"])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("a/b/", "a/"), ("a/x", "a/b/x", "a/b/b/x")),
        (("URL", "--from-prefix", "a/b", "--to-prefix", "a"), ("a/x", "a/b/x", "a/b/b/x")),
        (
            ("URL", "--from-prefix", "a", "--to-prefix", "a/b"),
            ("a/b/b/x", "a/b/b/b/x", "a/b/b/b/b/x"),
        ),
        (("URL", "--to-prefix", "a"), ("a/a/b/x", "a/a/b/b/x", "a/a/b/b/b/x")),
    ],
)
@pytest.mark.parametrize("scheme", ["sqlite", "file"])
def test_a_prefix_is_moved_to_one_above_or_below(
    tmp_path: Path,
    scheme: str,
    arguments: tuple[str, ...],
    expected: tuple[str, ...],
    values: tuple[int, ...],
) -> None:
    url = f"{scheme}:{tmp_path}/nested"
    before = zip(("a/b/x", "a/b/b/x", "a/b/b/b/x"), values, strict=True)
    with datastream.open(url, create=True) as store:
        store.put_many(dict(before))
    moved = run("mv", url, *(url if word == "URL" else word for word in arguments))
    assert moved.exit_code == 0, moved.stderr
    with datastream.open(url) as store:
        assert dict(store) == dict(zip(expected, values, strict=True))


def test_a_key_that_cannot_be_read_is_said(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read = datastream.Store.snapshot_batch

    def unread(store: datastream.Store, *keys: str, **globs: Any) -> datastream.Batch:
        return replace(read(store, *keys, **globs), unread=names)

    names = frozenset({"archived", "old/"})
    monkeypatch.setattr(datastream.Store, "snapshot_batch", unread)
    monkeypatch.setattr(datastream.Entries, "unread", names)
    listed = run("ls", url)
    assert listed.exit_code == 0
    assert "'archived' and 1 more cannot be read and was left out" in listed.stderr
    # A copy that is not whole is not taken for one.
    exported = run("export", url)
    assert exported.exit_code == 1
    assert len(exported.stdout.splitlines()) == len(VALUES)
    assert "'archived' and 1 more cannot be read" in exported.stderr


def test_what_the_target_cannot_hold_is_said_and_stays(tmp_path: Path) -> None:
    source, target = f"sqlite:{tmp_path}/store.db", f"file:{tmp_path}/files?create=true"
    with datastream.open(source) as store:
        store.put_many({"good": 1, "fx//USD": 2, "also": 3})
    for command in ("cp", "mv"):
        result = run(command, source, target)
        assert result.exit_code == 1
        assert "'fx//USD'" in result.stderr
        assert "1 keys cannot be held" in result.stderr
    assert set(content(target)) == {"good", "also"}
    assert set(content(source)) == {"fx//USD"}


def test_that_one_key_is_refused_does_not_say_that_nothing_was_written(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "small.db")) as db:
        db.execute("CREATE TABLE data (key TEXT PRIMARY KEY, value INTEGER CHECK (value < 100))")
    source, target = f"sqlite:{tmp_path}/store.db", f"sqlite:{tmp_path}/small.db"
    with datastream.open(source) as store:
        store.put_many({"good": 1, "large": 500, "nothing was written": 600})
    exported = run("export", source).stdout.encode()
    for arguments in (
        ("cp", source, target),
        ("import", target),
        ("mirror", source, target, "--once", "--place", f"{tmp_path}/place"),
    ):
        result = run(*arguments, stdin=exported)
        assert result.exit_code == 1
        first, second, *_ = result.stderr.splitlines()
        assert first.endswith("the table refuses this row; it was left out")
        assert "'nothing was written'" in second
        assert set(content(target)) == {"good"}


def test_a_key_is_renamed_and_a_prefix_too(url: str) -> None:
    assert run("cp", url, "a", "b").exit_code == 0
    assert run("mv", url, "fx/", "rates/").exit_code == 0
    assert set(content(url)) == {"a", "b", "rates/USD", "rates/old/DEM", "blob", "obj"}
    assert run("mv", url, "a", "b", "--no-clobber").exit_code == 1
    assert run("mv", url, "missing", "b").exit_code == 1
    assert run("mv", url, "a", "b/").exit_code == 2
    assert run("mv", url, "a", "a").exit_code == 2
    assert run("mv", url, "rates/", "rates/old/").exit_code == 2
    assert content(url)["b"] == (b"1", "int")


def test_a_store_of_any_scheme_is_a_target(url: str, tmp_path: Path) -> None:
    target = f"memory:{tmp_path.name}"
    with datastream.open(target) as there:
        assert run("cp", url, target).exit_code == 0
        assert set(there) == set(content(url))
    assert "No such file" in run("cp", url, f"zip:{tmp_path}/none.zip").stderr
    assert run("cp", url, "a", "zip:a").exit_code == 0
    assert content(url)["zip:a"] == (b"1", "int")


def test_cp_makes_no_source_that_was_misspelt(tmp_path: Path, other: str) -> None:
    assert run("cp", f"sqlite:{tmp_path}/typo.db", other).exit_code == 1
    assert list(tmp_path.iterdir()) == []


# export and import.


@pytest.mark.parametrize("name", ["store.jsonl", "store.tar", "store.tar.gz", "store.tgz"])
def test_what_was_exported_is_imported(url: str, other: str, tmp_path: Path, name: str) -> None:
    file = str(tmp_path / name)
    assert run("export", url, "--output", file).exit_code == 0
    assert run("import", other, file).stdout == "5 entries written\n"
    assert content(other) == content(url)
    assert {path.suffix for path in tmp_path.iterdir()} == {".db", Path(name).suffix}


@pytest.mark.parametrize("form", ["jsonl", "tar"])
def test_a_pipe_takes_it_too(url: str, other: str, form: str) -> None:
    data = run("export", url, "fx/", "--format", form).stdout_bytes
    assert run("import", other, "--format", form, stdin=data).exit_code == 0
    assert set(content(other)) == {"fx/USD", "fx/old/DEM"}


@pytest.mark.parametrize("form", ["jsonl", "tar"])
def test_keys_that_look_like_paths_are_imported_as_they_are(
    tmp_path: Path, other: str, form: str
) -> None:
    odd = f"sqlite:{tmp_path}/odd.db"
    with datastream.open(odd) as store:
        store.put_many({"x": 1, "./x": 2, "././x": 3, "../x": 4, "/x": 5, "x//y": 6, ".": 7})
    data = run("export", odd, "--format", form).stdout_bytes
    assert run("import", other, "--format", form, stdin=data).exit_code == 0
    assert content(other) == content(odd)


def test_import_takes_what_watch_prints_and_what_is_written_by_hand(url: str) -> None:
    lines = [
        {"key": "a", "value": "", "operation": "DELETE"},
        {"key": "n", "value": 5},
        {"key": "n", "value": "6"},
        {"key": "t", "value": "6", "value_type": "str"},
        {"key": "o", "value": {"x": 1}},
    ]
    text = "\n".join(map(json.dumps, lines)) + "\n\n"
    assert run("import", url, stdin=text.encode()).exit_code == 0
    found = content(url)
    assert "a" not in found
    assert (found["n"], found["t"], found["o"]) == (
        (b"6", "int"), (b"6", "str"), (b'{"x":1}', "json"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", "line 2: "),
        (b"[]", 'line 2: it is no JSON object with a "key"'),
        (b'{"key": "a"}', 'needs a "value"'),
        (b'{"key": "a", "value": "x", "encoding": "base64"}', "no base64"),
        (b"\xff", "line 2: "),
    ],
)
def test_a_line_that_is_none_is_named(url: str, line: bytes, words: str) -> None:
    result = run("import", url, stdin=b'{"key": "new", "value": 1}\n' + line + b"\n")
    assert result.exit_code == 1
    assert words in result.stderr
    assert "; 0 entries were written" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"key": "a/", "value": 1}', "ends in '/'"),
        (b'{"key": "fx", "value": 1}', "'fx'"),
    ],
)
def test_what_a_store_cannot_hold_of_an_import_is_said_and_left_out(
    tmp_path: Path, line: bytes, words: str
) -> None:
    lines = b'{"key": "fx/a", "value": 1}', line, b'{"key": "z", "value": 2}'
    files = f"file:{tmp_path}/files?create=true"
    result = run("import", files, stdin=b"\n".join(lines))
    assert result.exit_code == 1
    assert words in result.stderr.splitlines()[0]
    assert "1 keys cannot be held" in result.stderr
    assert "2 others were written" in result.stderr
    assert set(content(files)) == {"fx/a", "z"}


@pytest.mark.parametrize("command", ["cp", "import"])
def test_what_goes_wrong_on_the_way_says_how_much_was_written(
    url: str, other: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_progress, "ATOMIC_STEP", 2)
    write, writes = datastream.Store.write, itertools.count()

    def full(store: datastream.Store, *given: datastream.Write) -> Any:
        if next(writes):
            raise datastream.SourceUnavailable("the disk is full; nothing was written: make room")
        return write(store, *given)

    monkeypatch.setattr(datastream.Store, "write", full)
    exported = run("export", url).stdout.encode()
    result = run("cp", url, other) if command == "cp" else run("import", other, stdin=exported)
    assert result.exit_code == 1
    said = "the disk is full; nothing more was written: make room; 2 entries were written"
    assert result.stderr == f"datastream: {said}\n"
    assert len(content(other)) == 2


def test_what_the_library_keeps_in_a_store_stays_there(url: str, other: str) -> None:
    with datastream.open(url) as store:
        store["_datastream/mirror/x.json"] = {}
    lines = run("export", url).stdout.splitlines()
    assert {json.loads(line)["key"] for line in lines} == VALUES.keys()
    assert run("cp", url, other).exit_code == 0
    assert content(other).keys() == VALUES.keys()
    assert run("mv", url, other).exit_code == 0
    assert content(other).keys() == VALUES.keys()
    assert content(url).keys() == {"_datastream/mirror/x.json"}
    for command in (("export", url), ("cp", url, other), ("mv", url, other)):
        result = run(*command, "_datastream/mirror/x.json")
        assert result.exit_code == 1
        assert "it stays here" in result.stderr


def test_a_file_that_is_none_makes_no_database(tmp_path: Path) -> None:
    (tmp_path / "bad").write_text("bad")
    for arguments in ((), ("--format", "tar")):
        url = f"sqlite:{tmp_path}/new.db"
        assert run("import", url, str(tmp_path / "bad"), *arguments).exit_code == 1
        assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_files_hold_what_is_imported_and_renamed(url: str, tmp_path: Path) -> None:
    with datastream.open(url) as store:
        store.put_many({"zip": "12", "half": "0.50"})
    files = f"file:{tmp_path}/files?create=true"
    data = run("export", url, "zip", "half").stdout_bytes
    assert run("import", files, stdin=data).exit_code == 0
    assert run("mv", files, "zip", "code.json").exit_code == 0
    assert (tmp_path / "files" / "code.json").read_text() == "12"
    assert (tmp_path / "files" / "half").read_text() == "0.50"


def test_any_archive_of_files_is_imported(other: str) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, value in (("./conf/limits", b'{"rps": 9}'), ("conf/n", b"5"), ("b", b"\xff")):
            member = tarfile.TarInfo(name)
            member.size = len(value)
            archive.addfile(member, io.BytesIO(value))
        archive.addfile(tarfile.TarInfo("../up"), io.BytesIO())
        link = tarfile.TarInfo("link")
        link.type = tarfile.SYMTYPE
        archive.addfile(link)
    assert run("import", other, "--format", "tar", stdin=data.getvalue()).exit_code == 0
    found = content(other)
    assert found["conf/limits"] == (b'{"rps": 9}', "json")
    assert (found["conf/n"], found["b"]) == ((b"5", "int"), (b"\xff", "bytes"))
    assert "link" not in found


@pytest.mark.parametrize("name", ["a.zip", "a.tar.xz", "a.jsonl.gz"])
def test_an_export_is_what_its_name_says(url: str, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    refused = run("export", url, "-o", f"{path}")
    assert (refused.exit_code, path.exists()) == (2, False)
    assert "name it .jsonl, .tar or .tar.gz" in refused.stderr
    assert run("export", url, "-o", f"{path}", "--format", "jsonl").exit_code == 0


@pytest.mark.parametrize("form", ["tar", "tar.gz"])
def test_an_archive_is_known_by_what_it_holds(
    url: str, other: str, tmp_path: Path, form: str
) -> None:
    path = tmp_path / "backup"
    assert run("export", url, "--format", form, "-o", f"{path}").exit_code == 0
    assert run("import", other, f"{path}").stdout == "5 entries written\n"
    assert content(other) == content(url)
    assert "line 1" in run("import", other, f"{path}", "--format", "jsonl").stderr


def test_lines_that_are_packed_are_to_be_unpacked(url: str, other: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.jsonl.gz"
    file.write_bytes(gzip.compress(run("export", url).stdout_bytes))
    refused = run("import", other, str(file))
    assert refused.exit_code == 1
    assert "unpack it first" in refused.stderr


def test_an_archive_that_is_cut_is_an_error(url: str, other: str) -> None:
    with datastream.open(url) as store:
        store["big"] = "x" * 100_000
    data = run("export", url, "--format", "tar").stdout_bytes
    cut = run("import", other, "--format", "tar", stdin=data[:50_000])
    assert cut.exit_code == 1
    assert "cannot be read on" in cut.stderr


# diff and mirror.


def test_diff_says_what_differs(url: str, other: str) -> None:
    run("cp", url, other)
    assert run("diff", url, other, "--exit-code").exit_code == 0
    run("rm", other, "a")
    run("put", other, "fx/USD", "2")
    run("put", other, "new", "x\ty")
    result = run("diff", url, other)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["-\ta\t1\t", "~\tfx/USD\t1.1\t2", "+\tnew\t\tx\\ty"]
    assert run("diff", url, other, "--keys-only").stdout.splitlines() == [
        "-\ta", "~\tfx/USD", "+\tnew",
    ]  # fmt: skip
    assert run("diff", url, other, "fx/", "--exit-code").exit_code == 1
    first, *_ = map(json.loads, run("diff", url, other, "--json").stdout.splitlines())
    assert (first["key"], first["kind"], first["a"]["value"], first["b"]) == (
        "a", "only_a", "1", None,
    )  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="needs rights of files")
@pytest.mark.parametrize("mode", [0o600, 0o666])
def test_an_export_leaves_who_may_read_the_file_as_it_was(
    url: str, tmp_path: Path, mode: int
) -> None:
    file = tmp_path / "settings.jsonl"
    file.touch()
    file.chmod(mode)
    assert run("export", url, "--output", str(file)).exit_code == 0
    assert file.stat().st_mode & 0o777 == mode
    assert file.read_text()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_an_export_replaces_no_pipe_and_no_link(url: str, tmp_path: Path) -> None:
    pipe, link, file = (tmp_path / name for name in ("pipe", "link", "file"))
    os.mkfifo(pipe)
    link.symlink_to(file)
    reading = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE)
    assert run("export", url, "-o", str(pipe)).exit_code == 0
    exported, _ = reading.communicate(timeout=TIMEOUT)
    assert run("export", url, "-o", str(link)).exit_code == 0
    assert exported == file.read_bytes() == run("export", url).stdout_bytes
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_a_comparison_that_fails_exits_otherwise_than_one_that_finds_something(
    url: str, other: str
) -> None:
    run("cp", url, other)
    assert run("diff", url, other, "--exit-code").exit_code == 0
    run("rm", other, "a")
    assert run("diff", url, other, "--exit-code").exit_code == 1
    missing = f"{other}.none"
    failed = run("diff", url, missing, "--exit-code")
    assert failed.exit_code == 2
    assert ".none" in failed.stderr
    assert run("diff", url, missing).exit_code == 1


def test_a_mirror_is_made_once_and_tried_before(url: str, other: str) -> None:
    run("put", other, "a", "1")
    planned = run("mirror", url, other, "--dry-run")
    assert planned.exit_code == 0
    assert "PUT\tfx/USD\tfloat" in planned.stdout.splitlines()
    assert set(content(other)) == {"a"}
    assert run("mirror", url, other, "--once", "--place", f"{other[7:]}.place").exit_code == 0
    assert content(other) == content(url)
    opened_otherwise = (
        f"{url}?interval=1",
        f"{other}?create=true",
        "--place",
        f"{other[7:]}.place",
    )
    assert run("mirror", *opened_otherwise, "--once").exit_code == 0
    run("put", other, "a", "7")
    refused = run("mirror", url, other, "--once", "--place", f"{other[7:]}.place")
    assert refused.exit_code == 1
    assert '--on-conflict "source" or "target"' in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert content(other)["a"] == (b"7", "int")


@pytest.mark.chaos
def test_a_mirror_follows_until_ctrl_c(url: str, other: str, start: Start) -> None:
    mirror = start("mirror", url, other, "--json")
    while json.loads(mirror.line())["puts"] < len(VALUES):
        pass
    run("rm", url, "a")
    while json.loads(mirror.line())["deletes"] < 1:
        pass
    assert "a" not in content(other)
    assert mirror.signal(signal.SIGINT) == 130
    assert mirror.rest_of_errors() == []
