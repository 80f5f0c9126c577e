"""Directories in trouble: what was delivered stands, nothing is torn, nothing falsely deleted."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

import datastream
from datastream import Denied, InvalidKey, SourceUnavailable, State, Unreadable
from datastream.sources.files import content
from datastream.sources.files.content import PIECE
from datastream.testing import Recorder
from tests.integration._programs.tools import PROGRAMS, Child, Statuses, eventually, never
from tests.integration.files.tools import ROOT_ONLY, mount, open_way, unmount


@pytest.fixture
def root(root):
    path = root
    (path / "a").write_text("1")
    (path / "sub").mkdir()
    (path / "sub" / "b").write_text("1")
    return path


FIRST = {"a": b"1", "sub/b": b"1"}


@pytest.fixture
def watcher(store):
    watcher = Recorder(store)
    watcher.wait_state(FIRST)
    return watcher


def is_ready(store, statuses):
    def ready():
        store.refresh()
        return statuses.seen[-1].state is State.READY

    eventually(ready, "ready again")


# --- the directory itself ---


def test_renamed_away_and_back(root, store, watcher, tmp_path):
    statuses = Statuses(store)
    for number in range(3):
        root.rename(tmp_path / "away")
        error = statuses.wait(State.STALE).error
        assert "taken for deleted" in str(error)
        with pytest.raises(SourceUnavailable):
            store["a"]
        with pytest.raises(SourceUnavailable):
            store["a"] = 2
        (tmp_path / "away").rename(root)
        is_ready(store, statuses)
        (root / "a").write_text(f"{number}")
        watcher.wait_state({"a": b"%d" % number, "sub/b": b"1"})
    assert all(entry.key == "a" for entry in watcher.live)


def test_removed_and_made_anew(root, store, watcher, tmp_path):
    statuses = Statuses(store)
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    root.rename(tmp_path / "old")
    statuses.wait(State.STALE)
    copy.rename(root)
    is_ready(store, statuses)
    assert not watcher.live
    (root / "sub" / "b").write_text("2")
    watcher.wait_state({"a": b"1", "sub/b": b"2"})
    store["c"] = 3
    watcher.wait(lambda w: "c" in w.state)


def test_a_file_in_its_place(root, store, watcher, tmp_path):
    statuses = Statuses(store)
    root.rename(tmp_path / "old")
    root.write_text("no directory")
    statuses.wait(State.STALE)
    root.unlink()
    (tmp_path / "old").rename(root)
    is_ready(store, statuses)
    assert not watcher.live


def test_a_link_swapped_for_another_directory(root, tmp_path):
    link, others = tmp_path / "current", []
    for number in range(2, 40):
        other = tmp_path / f"release-{number}"
        shutil.copytree(root, other)
        (other / "a").write_text(f"{number}")
        (other / "sub" / "b").write_text(f"{number}")
        others.append(other)
    link.symlink_to(root)
    with datastream.open(f"file:{link}") as store:
        watcher = Recorder(store)
        watcher.wait_state(FIRST)
        for other in others:
            subprocess.run(["ln", "-sfn", other, link], check=True)
            assert store["a"] == int(other.name.split("-")[1])
        watcher.wait_state({"a": b"39", "sub/b": b"39"})
        assert all(len(set(state.values())) == 1 for state in watcher.states[1:])
        (others[-1] / "a").write_text("end")
        watcher.wait(lambda w: w.state["a"] == b"end")
        assert all(entry.operation == "PUT" for entry in watcher.live)


def test_kubernetes_swaps_all_keys_at_once(tmp_path):
    """Files are links into ``..data``, a link that is renamed over."""
    root = tmp_path / "mounted"
    keys = "a", "b", "c.yaml"

    def release(number):
        folder = root / f"..{number}"
        folder.mkdir()
        for key in keys:
            (folder / key).write_text(f"{number}")
        (root / "..tmp").symlink_to(folder.name)
        (root / "..tmp").rename(root / "..data")
        if number > 1:
            shutil.rmtree(root / f"..{number - 1}")

    root.mkdir()
    release(0)
    for key in keys:
        (root / key).symlink_to(f"..data/{key}")
    with datastream.open(f"file:{root}") as store:
        watcher = Recorder(store)
        snapshots = []
        done = threading.Event()

        def look():
            while not done.is_set():
                try:
                    snapshots.append({e.value for e in store.snapshot().values()})
                except SourceUnavailable:
                    continue

        thread = threading.Thread(target=look)
        thread.start()
        for number in range(1, 150):
            release(number)
        watcher.wait_state(dict.fromkeys(keys, b"149"))
        done.set()
        thread.join()
        assert {len(values) for values in snapshots} == {1}
        assert all(len(set(state.values())) == 1 for state in watcher.states[1:]), "mixed keys"
        assert all(len(state) == 3 for state in watcher.states[1:])


# --- mounts ---


@ROOT_ONLY
def test_the_directory_is_unmounted_and_comes_back(root, tmp_path):
    point = tmp_path / "point"
    (point / "conf").mkdir(parents=True)
    (root / "conf").mkdir()
    (root / "conf" / "a").write_text("1")
    for place, first in ((point, {**FIRST, "conf/a": b"1"}), (point / "conf", {"a": b"1"})):
        mount("--bind", root, point)
        try:
            with datastream.open(f"file:{place}") as store:
                watcher, statuses = Recorder(store), Statuses(store)
                watcher.wait_state(first)
                unmount(point)
                store.refresh()
                assert "not mounted" in str(statuses.wait(State.STALE).error)
                with pytest.raises(SourceUnavailable):
                    store.put("a", 2)
                assert watcher.state == first
                mount("--bind", root, point)
                is_ready(store, statuses)
                (place / "a").write_text("2")
                watcher.wait_state({**first, "a": b"2"})
                (place / "a").write_text("1")
                watcher.wait_state(first)
                assert {entry.key for entry in watcher.live} == {"a"}
        finally:
            unmount(point)


@ROOT_ONLY
def test_a_directory_below_is_unmounted_and_comes_back(root, store, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "x").write_text("1")
    (root / "on").mkdir()
    mount("--bind", disk, root / "on")
    try:
        watcher, statuses = Recorder(store), Statuses(store)
        watcher.wait_state({**FIRST, "on/x": b"1"})
        unmount(root / "on")
        assert str(root / "on") in str(statuses.wait(State.STALE).error)
        mount("--bind", disk, root / "on")
        is_ready(store, statuses)
        (root / "on" / "x").write_text("2")
        watcher.wait_state({**FIRST, "on/x": b"2"})
        assert [entry.value for entry in watcher.live] == [b"2"]
    finally:
        unmount(root / "on")


@ROOT_ONLY
def test_a_directory_below_that_is_mounted_later_is_watched(root, store, watcher, tmp_path):
    mount("-t", "tmpfs", "none", root / "sub")
    try:
        watcher.wait_state({"a": b"1"})
        (root / "sub" / "c").write_text("1")
        watcher.wait_state({"a": b"1", "sub/c": b"1"})
    finally:
        unmount(root / "sub")


# --- permissions ---


@ROOT_ONLY
@pytest.mark.parametrize("name", ["", "/s.json"], ids=["directory", "document"])
def test_a_file_that_is_mounted_by_itself_is_looked_at(tmp_path, name):
    """As containers have one file of the host, of whose directory they are told nothing."""
    root, theirs = tmp_path / "root", tmp_path / "theirs.json"
    root.mkdir()
    (root / "s.json").touch()
    theirs.write_text('{"a": 1}')
    mount("--bind", theirs, root / "s.json")
    try:
        with datastream.open(f"file:{root}{name}", interval=0.05) as store:
            key = "a" if name else "s.json"
            recorder = Recorder(store)
            recorder.wait(lambda r: b"1" in r.state.get(key, b""))
            # The first may be seen by a look that is due anyway.
            for number in (2, 3, 4):
                theirs.write_text(f'{{"a": {number}}}')
                recorder.wait(lambda r, part=b"%d" % number: part in r.state[key])
    finally:
        unmount(root / "s.json")


def test_made_unreadable_and_readable_again(root):
    open_way(root)
    with Child("unprivileged", f"file:{root}") as nobody:
        assert nobody.line() == "ready"
        first = nobody.ask("state")
        root.chmod(0o000)
        eventually(lambda: nobody.ask("status") == "STALE", "it is away")
        assert nobody.ask("get sub/b") in ("SourceUnavailable", "Denied")
        assert nobody.ask("state") == first
        root.chmod(0o755)
        eventually(lambda: nobody.ask("status") == "READY", "it is back")
        assert nobody.ask("state") == first
        (root / "sub" / "b").write_text("2")
        eventually(lambda: nobody.ask("state") == '{"a": "1", "sub/b": "2"}', "it is watched")


@ROOT_ONLY
@pytest.mark.parametrize("mode", [0o000, 0o444, 0o111])
def test_one_unreadable_directory_concerns_no_other(root, mode):
    open_way(root)
    (root / "sub" / "deep").mkdir()
    (root / "sub" / "deep" / "c").write_text("1")
    with Child("unprivileged", f"file:{root}") as nobody:
        assert nobody.line() == "ready"
        first = nobody.ask("state")
        (root / "sub").chmod(mode)
        (root / "a").write_text("2")
        eventually(lambda: '"a": "2"' in nobody.ask("state"), "the others go on")
        eventually(lambda: "'sub/' (Permission denied)" in nobody.ask("degraded"), "it is named")
        assert nobody.ask("status") == "READY"
        assert nobody.ask("state") == first.replace('"a": "1"', '"a": "2"')
        assert nobody.ask("all") == nobody.ask("list") == "a"
        if mode != 0o111:
            assert nobody.ask("get sub/b") == "Unreadable"
        (root / "sub").chmod(0o755)
        eventually(lambda: not nobody.ask("degraded"), "it can be read again")
        assert nobody.ask("all") == "a sub/b sub/deep/c"
        (root / "sub" / "b").write_text("2")
        eventually(lambda: '"sub/b": "2"' in nobody.ask("state"), "it is watched")


@ROOT_ONLY
def test_a_directory_that_could_never_be_read_is_left_out_until_it_can(root):
    open_way(root)
    (root / "sub").chmod(0o000)
    with Child("unprivileged", f"file:{root}") as nobody:
        assert nobody.line() == "ready"
        assert nobody.ask("state") == '{"a": "1"}'
        (root / "sub").chmod(0o755)
        eventually(lambda: "sub/b" in nobody.ask("state"), "it can be read now")
        (root / "sub" / "b").write_text("2")
        eventually(lambda: '"sub/b": "2"' in nobody.ask("state"), "it is watched")


@ROOT_ONLY
def test_one_unreadable_file_concerns_no_other(root):
    open_way(root)
    (root / "secret").write_text("1")
    (root / "secret").chmod(0o000)
    with Child("unprivileged", f"file:{root}") as nobody:
        assert nobody.line() == "ready"
        assert nobody.ask("state") == '{"a": "1", "sub/b": "1"}'
        assert nobody.ask("get secret") == "Unreadable"
        assert nobody.ask("all") == nobody.ask("list") == "a sub/b"
        eventually(lambda: nobody.ask("status") == "READY", "it is no trouble")
        (root / "secret").chmod(0o644)
        eventually(lambda: "secret" in nobody.ask("state"), "it can be read now")
        (root / "secret").chmod(0o000)
        (root / "a").write_text("2")
        eventually(lambda: '"a": "2"' in nobody.ask("state"), "the others go on")
        assert nobody.ask("state") == '{"a": "2", "secret": "1", "sub/b": "1"}'
        assert nobody.ask("get secret") == "Unreadable"
        assert nobody.ask("all") == nobody.ask("list") == "a sub/b"
        assert "'secret' (Permission denied)" in nobody.ask("degraded")
        (root / "secret").chmod(0o644)
        assert nobody.ask("list") == "a secret sub/b"
        (root / "secret").write_text("2")
        eventually(lambda: '"secret": "2"' in nobody.ask("state"), "and it too")


def test_a_path_longer_than_the_system_takes_is_left_out(root, store, caplog):
    """Such trees are made step by step, as `tar` and `rsync` do."""
    name, handles = "x" * 250, [os.open(root, os.O_RDONLY)]
    for _ in range(18):
        os.mkdir(name, dir_fd=handles[-1])
        handles.append(os.open(name, os.O_RDONLY, dir_fd=handles[-1]))
        os.close(os.open("f", os.O_CREAT, dir_fd=handles[-1]))
    for handle in handles:
        os.close(handle)
    keys = ["a", "sub/b", *("/".join([name] * depth) + "/f" for depth in range(1, 17))]
    assert set(store) == set(store.snapshot()) == set(keys)
    assert caplog.text.count("cannot be read and is left out") == 1
    assert "File name too long" in store.status.current.degraded
    with pytest.raises(Unreadable, match="too long"):
        store.entry("/".join([name] * 18) + "/f")
    with pytest.raises(InvalidKey, match="too long"):
        store.put("/".join([name] * 18) + "/f", 1)


# --- files that are being written ---


def test_a_file_written_in_place_in_two_halves(root, store, watcher):
    """There is no telling that more will follow; but what is there is never mixed."""
    half = b"x" * 300_000
    for number in range(5):
        end = b"%d" % number
        with (root / "a").open("wb") as file:
            file.write(half)
            file.flush()
            store.refresh()
            file.write(half + end)
        watcher.wait(lambda w, end=end: w.state["a"] == half + half + end)
    whole = {half + half + b"%d" % number for number in range(5)}
    starts = {half, b"", b"1", half + half}
    for state in watcher.states[1:]:
        value = state["a"]
        assert value in whole | starts or (half + half).startswith(value[: 2 * len(half)])


def test_a_busy_log_does_not_hold_up_the_others(root, store, watcher):
    statuses = Statuses(store)
    done = threading.Event()

    def log():
        with (root / "busy.log").open("ab", buffering=0) as file:
            while not done.is_set():
                file.write(b"a line of it\n")

    thread = threading.Thread(target=log)
    thread.start()
    try:
        for number in range(20):
            (root / "a").write_text(f"{number}")
            watcher.wait(lambda w, n=number: w.state["a"] == b"%d" % n)
    finally:
        done.set()
        thread.join()
    watcher.wait(lambda w: w.state.get("busy.log") == (root / "busy.log").read_bytes())
    assert set(statuses.states) == {State.READY}
    sizes = [len(state.get("busy.log", b"")) for state in watcher.states[1:]]
    assert sizes == sorted(sizes)


def test_a_long_file_that_grows_is_not_read_to_its_end(root, store, monkeypatch):
    """Others would wait for as long as that takes, at every look."""
    with (root / "long.log").open("wb") as file:
        file.truncate(64 * PIECE)
    pread, read = os.pread, []

    def piece(handle, size, offset):
        data = pread(handle, size, offset)
        read.append(len(data))
        with (root / "long.log").open("ab") as file:
            file.write(b"a line of it\n")
        return data

    with monkeypatch.context() as patch:
        patch.setattr(content.os, "pread", piece)
        with pytest.raises(Unreadable, match=r"long\.log.*changes while it is read"):
            store.entry("long.log")
        assert sum(read) <= content.READ_TRIES * PIECE
    assert store.entry("long.log").value == (root / "long.log").read_bytes()


# --- what the system tells ---


@contextmanager
def few_watches(root, name, count):
    """A watcher in a user namespace of its own, whose limits are nobody else's."""
    program = str(PROGRAMS / "few_watches.py")
    command = ["unshare", "-U", "-r", sys.executable, program, f"file:{root}", name, str(count)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:

        def until(text, others=()):
            found = list(others)
            while text not in "".join(found):
                line = process.stdout.readline()
                if line in ("", "skip\n"):
                    pytest.skip("no user namespace, or none whose limits can be set")
                found.append(line)
            return found

        yield until
        process.stdin.close()


@pytest.mark.parametrize("name", ["max_inotify_watches", "max_inotify_instances"])
def test_without_a_watch_left_it_is_polled_with_a_warning(root, name):
    with few_watches(root, name, 1 if name == "max_inotify_watches" else 0) as until:
        lines = until("ready")
        (root / "sub" / "b").write_text("2")
        lines = until("sub/b 2", lines)
        (root / "sub" / "b").write_text("3")
        lines = until("sub/b 3", lines)
        until("polled every 0.05 s", lines)
        assert sum("is not watched" in line for line in lines) == 1


def test_watches_that_run_out_later(root):
    # The directory, the one below, and one to try whether there is another.
    with few_watches(root, "max_inotify_watches", 3) as until:
        lines = until("ready")
        assert not any("warning" in line for line in lines)
        (root / "new").mkdir()
        (root / "new" / "c").write_text("1")
        lines = until("new/c 1", lines)
        (root / "new" / "c").write_text("2")
        lines = until("new/c 2", lines)
        assert sum("is not watched" in line for line in until("is not watched", lines)) == 1


def test_directories_that_come_and_go_beside_a_link_that_leads_out(root, store, tmp_path):
    """There each directory is watched by itself, and none outside."""
    (root / "out").symlink_to(tmp_path)
    watcher = Recorder(store)
    before = {"a": b"1", "sub/b": b"1"}
    for number in range(3):
        (root / "new/below").mkdir(parents=True)
        (root / "new/below/b").write_text(f"{number}")
        watcher.wait_state(before | {"new/below/b": b"%d" % number})
        (root / "new/below/b").write_text(f"{number}!")
        watcher.wait_state(before | {"new/below/b": b"%d!" % number})
        shutil.rmtree(root / "new")
        watcher.wait_state(before)


def test_closing_and_releasing_at_any_moment(root):
    for number in range(15):
        store = datastream.open(f"file:{root}")
        watcher = Recorder(store)
        (root / "a").write_text(f"{number}")
        if number % 3 == 0:
            watcher.dispose()
            Recorder(store, "sub/").wait_state({"sub/b": b"1"})
        if number % 3 == 1:
            watcher.wait(lambda w, n=number: w.state["a"] == b"%d" % n)
        store.close()
        watcher.wait(lambda w, n=number: w.completed or n % 3 == 0)


def test_nothing_is_told_of_what_did_not_change(root, store, watcher):
    for _ in range(5):
        os.utime(root / "a")
        (root / "draft").mkdir()
        (root / "draft").rmdir()
        shutil.copy(root / "sub" / "b", root / ".b")
        (root / ".b").rename(root / "sub" / "b")
        (root / "a").chmod(0o600)
    store.refresh()
    never(lambda: watcher.live, "a change", 0.3)
    assert not issubclass(SourceUnavailable, Denied)
