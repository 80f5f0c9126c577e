"""Writing files so that nobody, not even after a crash, sees half of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

import datastream
from datastream import Denied, InvalidKey, ReadOnly, RevisionConflict, SourceUnavailable
from datastream.source import Write
from datastream.testing import Recorder
from tests.integration._programs.tools import Child, eventually
from tests.integration.files.tools import ROOT_ONLY, mount, open_way, tmpfs, unmount


def files(root):
    """Every file that is no key's, but for the lock and the number of the last batch."""
    found = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    return found - {".datastream/lock", ".datastream/batch"}


@contextmanager
def calls(monkeypatch):
    """What is done to the disk, in order."""
    done = []

    def spy(module, name, note):
        real = getattr(module, name)

        def call(*args, **kwargs):
            done.append((name, note(*args, **kwargs)))
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    def path_of(handle):
        return str(Path(f"/proc/self/fd/{handle}").readlink())

    spy(os, "fsync", path_of)
    spy(os, "rename", lambda _, name, **held: f"{path_of(held['dst_dir_fd'])}/{name}")
    yield done
    monkeypatch.undo()


def test_content_name_and_directory_reach_the_disk_in_this_order(root, store, monkeypatch):
    store["first"] = 0
    with calls(monkeypatch) as done:
        store["new/a"] = 1
    staged = str(root / ".datastream" / "new-")
    shown = [(name, "staged" if path.startswith(staged) else path) for name, path in done]
    assert shown[:2] == [("fsync", "staged"), ("rename", str(root / "new" / "a"))]
    assert set(shown[2:]) == {("fsync", str(root / "new")), ("fsync", str(root))}


def test_a_journal_reaches_the_disk_before_the_first_of_several(root, store, monkeypatch):
    with calls(monkeypatch) as done:
        store.put_many({"a": 1, "b": 2})
    journal = done.index(("rename", str(root / ".datastream" / "journal")))
    synced = done.index(("fsync", str(root / ".datastream")), journal)
    first = done.index(("rename", str(root / "a")))
    assert journal < synced < first < done.index(("rename", str(root / "b")))
    assert files(root) == {"a", "b"}


def test_permissions_and_owner_are_kept(root, store):
    path = root / "a"
    path.write_text("1")
    path.chmod(0o4750)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65533)
    before = path.stat()
    store["a"] = 2
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode, before.st_uid, before.st_gid,
    )  # fmt: skip
    mask = os.umask(0o027)
    try:
        store["b"] = 1
    finally:
        os.umask(mask)
    assert (root / "b").stat().st_mode & 0o777 == 0o640


def test_links_are_written_through(root, store):
    (root / "real").mkdir()
    (root / "real" / "a").write_text("1")
    (root / "file").symlink_to("real/a")
    (root / "dir").symlink_to("real")
    store["file"] = 2
    assert (root / "file").is_symlink()
    assert (root / "real" / "a").read_text() == "2"
    store["dir/b"] = 3
    assert (root / "real" / "b").read_text() == "3"
    with pytest.raises(InvalidKey, match="same file"):
        store.put_many({"file": 4, "dir/a": 5})
    assert store["real/a"] == 2


@pytest.mark.parametrize(
    "keys",
    [
        ("a/b/x", "a/b/b/x", "a/x"),
        ("a/x", "a/b/x"),
        ("a/x/1", "a/y/1", "b"),
        ("a/b/c/1", "a/b/d/1", "a/2"),
    ],
)
def test_directories_within_each_other_go_at_once(root, store, keys):
    for order in (keys, keys[::-1]):
        store.write(*(Write(key, b"1") for key in order))
        store.write(*(Write(key, None) for key in order))
        assert files(root) == set()
        assert {path.name for path in root.iterdir()} == {".datastream"}


def test_directories_left_empty_go_and_the_root_stays(root, store):
    store.put_many({"a/b/c": 1, "a/d": 1})
    store.delete("a/b/c")
    assert not (root / "a" / "b").exists()
    store["a/b"] = 1
    store.clear()
    assert files(root) == set()
    assert not (root / "a").exists()
    assert root.is_dir()


def test_a_key_below_a_file_or_on_a_directory_is_refused(root, store):
    store.put_many({"a": 1, "d/e": 1})
    before = files(root)
    for values in (
        {"a/b": 1},
        {"d": 1},
        {"x": 1, "a/b/c": 1},
        {"x": 1, "x/y": 2},
        {"x/y": 1, "x": 2},
    ):
        with pytest.raises(InvalidKey):
            store.put_many(values)
        assert files(root) == before
    assert store["a"] == store["d/e"] == 1


@pytest.mark.parametrize("swap", [False, True])
def test_a_key_makes_room_for_keys_below_it_in_one_write(root, store, swap):
    store["a"] = 1
    watcher = Recorder(store)
    writes = [Write("a", None), Write("a/b", b"2")]
    store.write(*(reversed(writes) if swap else writes))
    watcher.wait_state({"a/b": b"2"})
    assert watcher.states[1:] == [{"a": b"1"}, {"a/b": b"2"}]


def test_what_fails_half_way_is_taken_back(root, store, tmp_path, monkeypatch):
    store.put_many({"a": 1, "b/c": 1, "gone": 1})
    watcher = Recorder(store)
    inode = (root / "a").stat().st_ino
    real = os.rename

    def rename(name, target, **held):
        if target.endswith("fails"):
            raise PermissionError(13, "Permission denied", target)
        return real(name, target, **held)

    monkeypatch.setattr(os, "rename", rename)
    writes = [Write("gone", None), Write("a", b"2"), Write("new/x", b"2"), Write("b/fails", b"2")]
    with pytest.raises(Denied):
        store.write(*writes)
    assert files(root) == {"a", "b/c", "gone"}
    assert (root / "a").stat().st_ino == inode
    assert not (root / "new").exists()
    store.refresh()
    store["end"] = 1
    watcher.wait(lambda w: "end" in w.state)
    assert [entry.key for entry in watcher.live] == ["end"]


def test_where_a_file_cannot_be_replaced_all_else_is_taken_back(root, store, tmp_path):
    """One that is mounted, as containers have it, cannot be put back either: it was not touched."""
    (tmp_path / "theirs").write_text("theirs")
    (root / "mounted").touch()
    mount("--bind", tmp_path / "theirs", root / "mounted")
    try:
        with pytest.raises(Denied, match="mounted"):
            store.put_many({"b": 1, "new/x": 1, "mounted": 1})
        assert files(root) == {"mounted"}
        assert store["mounted"] == "theirs"
    finally:
        unmount(root / "mounted")


def test_where_a_directory_may_only_be_read_all_else_is_taken_back(root, store):
    (root / "sub").mkdir()
    with tmpfs(root / "sub"):
        store.put_many({"b": 1, "sub/a": 1})
        mount("-o", "remount,ro", root / "sub")
        with pytest.raises(ReadOnly):
            store.put_many({"b": 2, "c": 2, "sub/a": 2})
        assert dict(store) == {"b": 1, "sub/a": 1}
        with pytest.raises(ReadOnly):
            store.write(Write("b", None), Write("sub/a", None))
        assert dict(store) == {"b": 1, "sub/a": 1}


@pytest.mark.chaos
def test_compare_and_set_between_processes(root):
    (root / "n").write_text("0")
    with Child("increment", f"file:{root}", "n", 60) as one:
        with Child("increment", f"file:{root}", "n", 60) as other:
            for child in (one, other):
                assert child.line() == "ready"
            one.process.stdin.write("\n")
            other.ask("")
            list(one.rest())
    assert (root / "n").read_text() == "120"
    assert files(root) == {"n"}


def test_expectations_hold_for_all_or_nothing_is_written(root, store):
    entry = store.put("a", 1)
    with pytest.raises(RevisionConflict):
        store.put_many({"b": 2, "a": 2}, expect={"a": "other"})
    with pytest.raises(RevisionConflict):
        store.put("a", 2, expect="")
    (root / "a").write_text("beside")
    with pytest.raises(RevisionConflict):
        store.put("a", 3, expect=entry.revision)
    assert files(root) == {"a"}
    assert store["a"] == "beside"


def test_other_processes_see_put_many_as_one_batch(root, store):
    watcher = Recorder(store)
    with Child("put_pairs", f"file:{root}") as child:
        for _ in range(60):
            last = int(child.line())
        watcher.wait(lambda w: int(w.state.get("a", -1)) >= last)
        child.kill()
    for state in filter(None, watcher.states):
        assert len(set(state.values())) == 1, "a batch was torn"
        assert len(state) == 3


@pytest.mark.chaos
def test_a_writer_killed_at_any_moment_leaves_all_or_nothing(root):
    with datastream.open(f"file:{root}") as store:
        watcher = Recorder(store)
        for number in range(25):
            child = Child("put_pairs", f"file:{root}")
            for _ in range(number % 7 + 1):
                acknowledged = int(child.line())
            child.signal(signal.SIGKILL)
            child.kill()
            values = dict(store.snapshot())
            assert len({entry.value for entry in values.values()}) == 1
            assert int(values["a"].value) >= acknowledged
            store["mark"] = number
            assert files(root) == {"a", "sub/b", "sub/deep/c", "mark"}
            store.delete("mark")
        for state in watcher.states[1:]:
            triple = {state.get(key) for key in ("a", "sub/b", "sub/deep/c")}
            assert len(triple) == 1, "a batch was torn"


def journal_of_the_dead(root, **values):
    """What a writer leaves that died after its journal had reached the disk."""
    script = (
        "import os, sys, json, datastream\n"
        "from datastream.sources.files import staging\n"
        "staging.StagingArea._do_all = lambda *_: os._exit(9)\n"
        "datastream.open(sys.argv[1]).put_many(json.loads(sys.argv[2]))\n"
    )
    import json

    command = [sys.executable, "-c", script, f"file:{root}", json.dumps(values)]
    assert subprocess.run(command, check=False).returncode == 9


def test_who_comes_next_finishes_what_the_dead_began(root, store):
    store.put_many({"a": 1, "b": 1})
    watcher = Recorder(store)
    journal_of_the_dead(root, a=2, b=2)
    watcher.wait_state({"a": b"2", "b": b"2"})
    assert watcher.states[1:] == [{"a": b"1", "b": b"1"}, {"a": b"2", "b": b"2"}]
    assert files(root) == {"a", "b"}


def test_a_reader_waits_for_a_writer_to_finish_that(root):
    with datastream.open(f"file:{root}") as writer:
        writer.put_many({"a": 1, "b": 1})
        journal_of_the_dead(root, a=2, b=2)
        with datastream.open(f"file:{root}?readonly=true") as reader:
            with pytest.raises(SourceUnavailable, match="finishes"):
                reader.snapshot()
            assert writer["a"] == 2
            assert reader["b"] == 2


def test_what_others_wrote_since_is_not_overwritten(root, store):
    store.put_many({"a": 1, "b": 1})
    journal_of_the_dead(root, a=2, b=2)
    (root / "a").write_text("newer")
    assert dict(store) == {"a": "newer", "b": 2}


def test_a_directory_moved_elsewhere_is_finished_there(root, tmp_path):
    with datastream.open(f"file:{root}") as store:
        store.put_many({"a": 1, "b": 1})
    journal_of_the_dead(root, a=2, b=2)
    root.rename(tmp_path / "moved")
    with datastream.open(f"file:{tmp_path / 'moved'}") as store:
        assert dict(store) == {"a": 2, "b": 2}
    assert not root.exists()


def test_a_full_disk_changes_nothing(tmp_path):
    with tmpfs(tmp_path / "small") as root, datastream.open(f"file:{root}") as store:
        store.put_many({"a": 1, "b": 1})
        watcher = Recorder(store)
        for values in ({"a": b"x" * 2_000_000}, {"a": 2, "c/d": b"x" * 2_000_000, "b": 2}):
            with pytest.raises(SourceUnavailable, match="make room"):
                store.put_many(values)
            assert files(root) == {"a", "b"}
        (root / "filler").write_bytes(b"x" * (shutil.disk_usage(root).free - 4096))
        with pytest.raises(SourceUnavailable, match="make room"):
            store.put_many({"a": "y" * 4000, "b": "y" * 4000})
        assert (store["a"], store["b"]) == (1, 1)
        (root / "filler").unlink()
        store.put_many({"a": 3, "b": 3})
        watcher.wait_state({"a": b"3", "b": b"3"})
        assert files(root) == {"a", "b"}


def test_another_filesystem_below(root, store):
    (root / "sub").mkdir()
    with tmpfs(root / "sub", "size=1m"):
        watcher = Recorder(store)
        store.put_many({"sub/a": 1, "b": 1})
        store.put("sub/a", 2)
        watcher.wait_state({"sub/a": b"2", "b": b"1"})
        with pytest.raises(SourceUnavailable, match="make room"):
            store.put_many({"b": 2, "sub/a": b"x" * 2_000_000})
        assert (store["b"], store["sub/a"]) == (1, 2)
        assert files(root) == {"b", "sub/a"}
        store.delete("sub/a")
        assert os.path.ismount(root / "sub")


def test_who_tidies_up_while_others_write(root, store):
    with datastream.open(f"file:{root}") as other:
        for number in range(20):
            shutil.rmtree(root / ".datastream", ignore_errors=True)
            assert store.put("n", number) == other.entry("n")
            other.put("n", f"{number}!", expect=other.entry("n").revision)


@ROOT_ONLY
def test_another_user_may_write_what_root_wrote_to(root, store):
    root.chmod(0o777)
    open_way(root)
    mask = os.umask(0o077)
    try:
        store.put_many({"a": 1, "b": 1})
    finally:
        os.umask(mask)
    (root / "a").chmod(0o644)
    with Child("unprivileged", f"file:{root}") as nobody:
        assert nobody.line() == "ready"
        assert nobody.ask("get a") == "1"
        assert nobody.ask("put a text") not in ("Denied", "")
        assert store["a"] == "text"
    eventually(lambda: (root / "a").stat().st_mode & 0o777 == 0o644, "the permissions are kept")
    (root / ".datastream").chmod(0o700)
    with Child("unprivileged", f"file:{root}") as nobody:
        assert nobody.line() == "ready"
        assert nobody.ask("get a") == "text"
        assert nobody.ask("put a other") == "Denied"
