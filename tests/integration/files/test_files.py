"""Directories as they are found: what is a key, what it holds, and how that is seen."""

from __future__ import annotations

import os
import shutil
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

import datastream
from datastream import (
    DatastreamError,
    Denied,
    InvalidKey,
    InvalidValue,
    KeyNotFound,
    ReadOnly,
    SourceUnavailable,
)
from datastream.cli import main
from datastream.sources.files import FilesSource
from datastream.sources.files.content import time_of, time_stamp
from datastream.testing import Recorder


def make(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def names(root):
    """All there is, but for what the library keeps for itself."""
    found = (path.relative_to(root).as_posix() for path in root.rglob("*"))
    return {name for name in found if not name.startswith(".datastream")}


# --- what is a key ---


def test_files_below_are_keys(root, store):
    make(root, {"a": "1", "fx/USD": "1.1", "fx/old/DEM": "2"})
    (root / "empty").mkdir()
    assert dict(store) == {"a": 1, "fx/USD": 1.1, "fx/old/DEM": 2}
    assert set(store.snapshot("fx/")) == {"fx/USD", "fx/old/DEM"}
    assert set(store.snapshot(match="fx/*")) == {"fx/USD"}
    assert set(store.snapshot("a", "fx/old/DEM", "none", "fx", "a/b")) == {"a", "fx/old/DEM"}
    for missing in ("fx", "a/b", "empty", "../conf/a", "/a", str(root / "a"), "x" * 300):
        assert missing not in store


def test_a_name_that_is_too_long_is_no_unreadable_file(root, store, caplog):
    make(root, {"a": "1"})
    for key in ("x" * 300, "x" * 300 + "/", "x" * 300 + "/a"):
        assert not store.snapshot(key)
        assert not store.snapshot_batch(key).unread
    assert not store.status.current.degraded
    assert not caplog.records


def test_types_are_the_same_in_the_list_and_the_value(root, store):
    make(root, {"a.yaml": "k: 1", "b.toml": "k = 1", "c.json": "{}", "d": "12", "e": "text"})
    make(root, {"f.parquet": "PAR1", "g.JSON": "[]", "h": "true", "i": "", "j": "x" * 100_000})
    (root / "k").write_bytes(b"\0\1")
    listed = {found.key: found.value_type for found in store.capabilities()}
    assert listed == {key: entry.value_type for key, entry in store.snapshot().items()}
    assert listed == {
        "a.yaml": "application/yaml",
        "b.toml": "application/toml",
        "c.json": "application/json",
        "d": "int",
        "e": "str",
        "f.parquet": "application/vnd.apache.parquet",
        "g.JSON": "application/json",
        "h": "bool",
        "i": "str",
        "j": "str",
        "k": "bytes",
    }
    (root / "d").write_text("no number")
    assert {c.value_type for c in store.capabilities() if c.key == "d"} == {"str"}


def test_hidden_files_are_left_out_unless_wanted(root, store):
    make(root, {".env": "x", ".git/config": "x", "a/.b": "x", "c": "x", "..data/d": "x"})
    assert set(store) == {"c"}
    with pytest.raises(InvalidKey, match="hidden"):
        store["a/.b"] = 1
    assert ".env" not in store
    with datastream.open(f"file:{root}?hidden=true") as all_:
        assert set(all_) == {".env", ".git/config", "a/.b", "c"}
        all_[".new"] = 1
        for reserved in ("..data/d", ".datastream/lock", ".datastream-0", "a/.datastream/x"):
            assert reserved not in all_
            with pytest.raises(InvalidKey, match="reserved"):
                all_[reserved] = 1
    assert (root / ".new").read_text() == "1"


def test_excluded_files_are_no_keys(root):
    make(
        root, {"a": "1", "a.tmp": "1", "b/c.tmp": "1", "b/d": "1", "build/x": "1", "b/build/y": ""}
    )
    with datastream.open(f"file:{root}?exclude=*.tmp,build") as store:
        watcher = Recorder(store)
        watcher.wait_state({"a": b"1", "b/d": b"1"})
        assert set(store) == {"a", "b/d"}
        assert "a.tmp" not in store
        make(root, {"z.tmp": "1", "build/z": "1", "b/e": "1"})
        watcher.wait(lambda w: "b/e" in w.state)
        assert set(watcher.state) == {"a", "b/d", "b/e"}
        with pytest.raises(InvalidKey, match="excluded"):
            store["build/z"] = 2
    with datastream.open(f"file:{root}", exclude=["b/*"]) as store:
        assert {"build/x", "a.tmp", "a"} < set(store)
        assert not store.snapshot("b/")


def test_names_that_are_no_utf8_are_left_out_with_a_warning(root, store, caplog):
    (root / "good").write_text("1")
    Path(os.fsdecode(os.fsencode(root) + b"/bad\xff")).write_text("1")
    watcher = Recorder(store)
    assert set(store) == {"good"} == set(watcher.state)
    assert [r.message for r in caplog.records if "UTF-8" in r.message] == [
        f"'bad\\udcff' in {root} is no UTF-8 and is left out"
    ]
    make(root, {"ключ/🔑": "1"})
    watcher.wait_state({"good": b"1", "ключ/🔑": b"1"})


def test_a_directory_whose_own_name_is_no_utf8(tmp_path, caplog):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/odd\xff")
    Path(odd).mkdir()
    with datastream.Store(FilesSource(odd, interval=0.05)) as store:
        watcher = Recorder(store)
        Path(odd, "a").write_text("1")
        watcher.wait_state({"a": b"1"})


def test_only_regular_files_are_keys(root, store):
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))
        (root / "null").symlink_to("/dev/null")
        watcher = Recorder(store)
        make(root, {"a": "1"})
        watcher.wait_state({"a": b"1"})
        assert set(store) == {"a"}
        for key in ("pipe", "socket"):
            assert key not in store
            with pytest.raises(InvalidKey, match="regular"):
                store[key] = 1
    assert (root / "pipe").is_fifo()


def test_links_are_followed_within_the_directory_only(root, store, tmp_path, caplog):
    make(tmp_path, {"outside/secret": "x"})
    make(root, {"real/a": "1"})
    (root / "dir").symlink_to("real")
    (root / "file").symlink_to(root / "real" / "a")
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "outfile").symlink_to("../outside/secret")
    (root / "broken").symlink_to("nowhere")
    (root / "self").symlink_to("self")
    (root / "real" / "loop").symlink_to("..")
    assert set(store) == {"real/a", "dir/a", "file"}
    assert store["file"] == store["dir/a"] == 1
    for key in ("out/secret", "outfile", "broken", "self", "real/loop/real/a", "dir/loop/file"):
        assert key not in store, key
    for key in ("out/secret", "outfile", "out/new"):
        with pytest.raises(InvalidKey, match="out of"):
            store[key] = "stolen"
    assert names(tmp_path / "outside") == {"secret"}
    assert (tmp_path / "outside/secret").read_text() == "x"
    assert sum("leads out" in record.message for record in caplog.records) == 2


def test_a_link_to_what_the_library_keeps_for_itself_is_none(root, store):
    store["a"] = 1
    (root / "lock").symlink_to(".datastream/lock")
    assert set(store) == {"a"}
    with pytest.raises(InvalidKey):
        store["lock"] = "broken"


@pytest.mark.parametrize(
    "key",
    ["../up", "a/../../up", "/etc/x", "a//b", "./a", "a/.", "a/..", "k" * 256, "é" * 128 + "/x"],
)
def test_keys_that_no_file_can_have_are_refused(root, store, key):
    with pytest.raises(InvalidKey):
        store[key] = 1
    with pytest.raises(InvalidKey):
        store.put_many({"fine": 1, key: 1})
    assert names(root) == set()
    assert names(root.parent) == {"conf", *(f"conf/{n}" for n in names(root))} | {
        name for name in names(root.parent) if name.startswith("conf/.datastream")
    }


@pytest.mark.chaos
def test_paths_too_long_and_deep_ones(root, store):
    with pytest.raises(InvalidKey):
        store["/".join(["k" * 200] * 30)] = 1
    assert names(root) == set()
    deep = "a/" * 1500 + "x"
    store[deep] = 1
    assert dict(store) == {deep: 1}
    store.delete(deep)
    assert names(root) == set()


# --- reading ---


def test_a_value_is_what_the_file_holds_now(root, store):
    for text in ("one", "two", "six"):
        (root / "a").write_text(text)
        assert store["a"] == text
        assert store.snapshot()["a"].value == text.encode()


def test_what_is_replaced_under_the_same_time_and_size_is_seen(root, store):
    path = root / "a"
    path.write_text("one")
    watcher = Recorder(store)
    for number in range(20):
        before = path.stat()
        path.write_text(f"{number:03}")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        watcher.wait_state({"a": b"%03d" % number})
        assert store.entry("a").value == b"%03d" % number


def test_a_cursor_from_a_snapshot_shows_what_was_written_at_once_after_it(root, store):
    """The same time stamp may be on both contents."""
    for number in range(20):
        (root / "a").write_text(f"{number} old")
        for keys in (), ("a",):
            cursor = store.snapshot_batch(*keys).cursor
            (root / "a").write_text(f"{number} {len(keys)}w")
            resumed = Recorder(store, *keys, since=cursor)
            assert resumed.state == {"a": b"%d %dw" % (number, len(keys))}
            resumed.dispose()


def test_a_file_from_the_future_is_not_read_at_every_look(root):
    (root / "a").write_text("1")
    os.utime(root / "a", (4e9, 4e9))
    with datastream.open(f"file:{root}?polling=true&interval=0.02") as store:
        watcher = Recorder(store)
        (root / "b").write_text("1")
        watcher.wait(lambda w: "b" in w.state)
        assert store.entry("a").updated_at == datetime.fromtimestamp(4e9, UTC)


def test_times_survive_to_the_microsecond(root, store):
    for microsecond in (0, 1, 123_457, 999_999):
        at = datetime(2024, 2, 29, 12, 0, 1, microsecond, UTC)
        assert store.put("a", microsecond, updated_at=at).updated_at == at
    start = datetime(1960, 1, 1, tzinfo=UTC)
    for step in range(0, 10**6, 997):
        at = start + timedelta(days=step % 40_000, microseconds=step)
        assert time_of(time_stamp(at)) == at
    assert time_of(10**30) is None


def test_put_many_beside_a_link_does_not_hide_the_state(root, store):
    """A look that need not be compared with what watchers saw is one of its own."""
    make(root, {"a": "1"})
    (root / "link").symlink_to("a")
    store.put_many({"b": 1, "c": 2})
    with datastream.open(f"file:{root}") as other:
        assert dict(other.snapshot().items()).keys() == {"a", "b", "c", "link"}
        assert other["link"] == 1


def test_a_narrow_read_does_not_make_links_forgotten(root, store):
    make(root, {"..1/a": "1", "sub/b": "1"})
    (root / "..data").symlink_to("..1")
    (root / "a").symlink_to("..data/a")
    watcher = Recorder(store)
    watcher.wait_state({"a": b"1", "sub/b": b"1"})
    for number in range(2, 7):
        store.snapshot("sub/")
        assert store["sub/b"] == 1
        make(root, {f"..{number}/a": str(number)})
        (root / "..new").symlink_to(f"..{number}")
        (root / "..new").rename(root / "..data")
        watcher.wait_state({"a": b"%d" % number, "sub/b": b"1"})


# --- watching what other programs do ---


def test_what_other_programs_do_is_seen(root, store):
    watcher = Recorder(store)
    (root / "a").write_text("1")
    watcher.wait_state({"a": b"1"})
    (root / "draft").write_text("2")
    (root / "draft").rename(root / "a")
    watcher.wait_state({"a": b"2"})
    os.link(root / "a", root / "b")
    watcher.wait_state({"a": b"2", "b": b"2"})
    with (root / "a").open("a") as file:
        file.write("0")
    watcher.wait(lambda w: w.state.get("a") == b"20")
    store.refresh()  # nobody tells of a change by another name of the same file
    watcher.wait_state({"a": b"20", "b": b"20"})
    (root / "a").unlink()
    watcher.wait_state({"b": b"20"})


def test_directories_that_come_go_and_move(root, store, tmp_path):
    make(tmp_path, {"new/x/1": "1", "new/2": "2"})
    watcher = Recorder(store)
    (tmp_path / "new").rename(root / "in")
    watcher.wait_state({"in/x/1": b"1", "in/2": b"2"})
    (root / "in" / "x" / "3").write_text("3")
    watcher.wait(lambda w: w.state.get("in/x/3") == b"3")
    (root / "in").rename(root / "moved")
    watcher.wait_state({"moved/x/1": b"1", "moved/2": b"2", "moved/x/3": b"3"})
    (root / "moved" / "2").write_text("two")
    watcher.wait(lambda w: w.state.get("moved/2") == b"two")
    shutil.rmtree(root / "moved" / "x")
    watcher.wait_state({"moved/2": b"two"})
    (root / "moved").rename(tmp_path / "out")
    store.refresh()
    watcher.wait_state({})


def test_a_directory_made_anew_again_and_again(root, store):
    watcher = Recorder(store)
    for number in range(30):
        make(root, {"d/e/f": str(number), "d/g": str(number)})
        if number % 2:
            watcher.wait(lambda w, n=number: w.state.get("d/e/f") == b"%d" % n)
        shutil.rmtree(root / "d")
    make(root, {"d/e/f": "end", "d/g": "end"})
    watcher.wait_state({"d/e/f": b"end", "d/g": b"end"})


def test_a_file_becomes_a_directory_and_back(root, store):
    watcher = Recorder(store)
    for number in range(5):
        (root / "a").write_text(f"{number}")
        watcher.wait_state({"a": b"%d" % number})
        (root / "a").unlink()
        make(root, {"a/b": f"{number}"})
        watcher.wait_state({"a/b": b"%d" % number})
        shutil.rmtree(root / "a")


def test_files_in_directories_made_faster_than_they_are_watched(root, store):
    watcher = Recorder(store)
    expected = {f"{n}/{n}/{n}/f": b"%d" % n for n in range(100)}
    for key, value in expected.items():
        make(root, {key: value.decode()})
    watcher.wait_state(expected)


@pytest.mark.chaos
def test_thousands_of_files_at_once(root, store):
    watcher = Recorder(store)
    expected = {f"{n % 20}/{n}": b"%d" % n for n in range(3000)}
    make(root, {key: value.decode() for key, value in expected.items()})
    watcher.wait_state(expected)
    for number in range(20):
        shutil.rmtree(root / str(number))
    watcher.wait_state({})


def test_what_is_not_selected_is_not_told(root, store):
    watcher = Recorder(store, "a", "sub/")
    exact = Recorder(store, "sub/x")
    make(root, {"b": "1", "other/x": "1", "sub/x": "1", "a": "1"})
    watcher.wait_state({"a": b"1", "sub/x": b"1"})
    exact.wait_state({"sub/x": b"1"})
    shutil.rmtree(root / "sub")
    watcher.wait_state({"a": b"1"})
    exact.wait_state({})
    assert {entry.key for entry in watcher.entries} == {"a", "sub/x"}


def test_watching_again_after_a_pause_and_resuming(root, store):
    first = Recorder(store)
    make(root, {"a": "1", "b": "1"})
    first.wait_state({"a": b"1", "b": b"1"})
    first.dispose()
    make(root, {"a": "2"})
    (root / "b").unlink()
    revisions = {entry.key: entry.revision for entry in first.entries}
    second = Recorder(store, since=revisions, had=first.state)
    second.wait_state({"a": b"2"})
    make(root, {"c": "3"})
    second.wait_state({"a": b"2", "c": b"3"})


# --- opening ---


def test_urls(root, monkeypatch):
    make(root, {"a": "1"})
    monkeypatch.chdir(root.parent)
    for url in ("file:conf", f"file:{root}", f"file://{root}", "file:./conf/"):
        with datastream.open(url) as store:
            assert dict(store) == {"a": 1}
    for bad in ("file:", "file://host/conf", "file:conf?nonsense=1", "file:conf?hidden=maybe"):
        with pytest.raises(DatastreamError):
            datastream.open(bad)
    with pytest.raises(DatastreamError, match="create=True"):
        datastream.open("file:missing")
    with datastream.open("file:missing/deep?create=true") as store:
        store["a"] = 1
    assert (root.parent / "missing/deep/a").read_text() == "1"
    with pytest.raises(DatastreamError, match="directory"):
        datastream.open("file:conf/a")
    with datastream.open("file:conf?readonly=true") as store, pytest.raises(ReadOnly):
        store["a"] = 2
    assert names(root) == {"a"}


def test_the_command_line(root, monkeypatch):
    monkeypatch.chdir(root.parent)
    run = CliRunner().invoke
    assert run(main, ["put", "file:conf", "fx/USD", "1.25"]).exit_code == 0
    listed = run(main, ["ls", "file:conf"])
    assert listed.exit_code == 0
    assert "fx/USD" in listed.output
    assert (root / "fx/USD").read_text() == "1.25"
    assert run(main, ["ls", "file:nowhere"]).exit_code != 0


def test_a_type_that_the_name_would_change_is_refused(root, store):
    with pytest.raises(InvalidValue, match="read back"):
        store["a"] = "12"
    store["a.txt"] = "12"
    assert store["a.txt"] == "12"
    assert names(root) == {"a.txt"}


def test_missing_keys(store):
    with pytest.raises(KeyNotFound):
        store["nothing"]
    assert not issubclass(Denied, SourceUnavailable)
