"""Every directory that can be looked at is watched, whatever happened while it was to be."""

from __future__ import annotations

import errno
import threading

import pytest

from datastream.sources.files import FilesSource, watcher
from datastream.sources.files.notify import TreeNotifications
from datastream.store import Store
from datastream.testing import Recorder
from tests.integration._programs.tools import TIMEOUT, Child, eventually
from tests.integration.files.tools import ROOT_ONLY, open_way


def lines_until(child, text):
    found = []
    while text not in found:
        found.append(child.line(TIMEOUT))
    return found


@pytest.fixture
def rare(monkeypatch):
    """Nothing is looked at anyway."""
    monkeypatch.setattr(watcher, "LOOK_AGAIN", 3600.0)
    monkeypatch.setattr(watcher, "AT_LATEST", 3600.0)


@pytest.mark.parametrize("name", [".", "sub"])
def test_one_that_may_not_be_read_just_while_it_is_to_be_watched(root, name):
    open_way(root)
    (root / "sub").mkdir()
    (root / name / "a").write_text("1")
    with Child("closed_while_watched", root, name) as child:
        told = f"{name}/a".removeprefix("./")
        lines_until(child, f"{told} 1")
        for number in range(2, 5):
            (root / name / "a").write_text(f"{number}")
            lines_until(child, f"{told} {number}")


def test_one_that_is_made_before_it_may_be_read(root):
    """As rsync and tar do when another user runs them."""
    open_way(root)
    (root / "a").write_text("1")
    with Child("closed_while_watched", root, "new") as child:
        lines_until(child, "a 1")
        # Told by the first look, which comes after the watch was set, or by that.
        (root / "a").write_text("2")
        lines_until(child, "a 2")
        child.process.stdin.write("make\n")
        child.process.stdin.flush()
        lines_until(child, "new/first 1")
        (root / "new" / "second").write_text("2")
        lines_until(child, "new/second 2")


@ROOT_ONLY
@pytest.mark.parametrize("moved", [False, True], ids=["there", "moved in"])
def test_one_that_may_not_be_read_costs_no_other_its_watch(root, tmp_path, moved):
    """The library leaves out all that it comes to after such a one."""
    open_way(root)
    (root / "a").write_text("1")
    tree = (root if moved else root / "..").resolve()
    names = [f"new/{number:02}" for number in range(20)]
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "a").write_text("1")
    (root / names[10]).chmod(0o000)
    names.remove(names[10])
    if moved:
        (root / "new").rename(tree.parent / "staged")
    with Child("closed_while_watched", root, "other") as child:
        lines_until(child, "a 1")
        if moved:
            (tree.parent / "staged").rename(root / "new")
            for _ in names:
                child.line(TIMEOUT)
        for name in names:
            (root / name / "a").write_text("2")
            lines_until(child, f"{name}/a 2")


def test_a_directory_that_stands_in_while_another_one_is_to_be_watched(root, monkeypatch, rare):
    (root / "a").write_text("1")
    away, other = root.parent / "away", root.parent / "other"
    is_back = threading.Event()

    class Swapped(TreeNotifications):
        def __init__(self, path, **options):
            if not other.exists():
                root.rename(away)
                root.mkdir()
            try:
                super().__init__(path, **options)
            finally:
                if not other.exists():
                    root.rename(other)
                    away.rename(root)
                    is_back.set()

    monkeypatch.setattr(watcher, "TreeNotifications", Swapped)
    with Store(FilesSource(root, interval=3600)) as store:
        recorder = Recorder(store)
        recorder.wait_state({"a": b"1"})
        assert is_back.wait(TIMEOUT)
        (root / "a").write_text("2")
        recorder.wait_state({"a": b"2"})


def test_where_looking_is_allowed_and_watching_is_not_it_is_polled(root, monkeypatch, caplog):
    """As a security module of the system may have it."""

    def refuse(path, **options):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(watcher, "TreeNotifications", refuse)
    with Store(FilesSource(root, interval=0.05)) as store:
        Recorder(store)
        eventually(lambda: "is not watched" in store.status.current.degraded, "it says so")
        assert "is not watched (Permission denied)" in caplog.text


def test_one_that_is_watched_by_itself_and_moved_and_back_at_once(
    root, tmp_path, monkeypatch, rare
):
    """All names are what they were by the time that it is noticed."""
    (root / "out").symlink_to(tmp_path)
    (root / "sub").mkdir()
    (root / "sub" / "a").write_text("1")
    waits = TreeNotifications.wait

    def moved_back(self, wake, timeout):
        found = waits(self, wake, timeout)
        if found and not (root / "sub").exists():
            (root / "elsewhere").rename(root / "sub")
        return found

    monkeypatch.setattr(TreeNotifications, "wait", moved_back)
    with Store(FilesSource(root, interval=3600)) as store:
        recorder = Recorder(store)
        for value in (b"2", b"3"):
            (root / "sub" / "a").write_bytes(value)
            recorder.wait_state({"sub/a": value})
        (root / "sub").rename(root / "elsewhere")
        eventually((root / "sub").exists, "it was noticed")
        for value in (b"4", b"5", b"6"):
            (root / "sub" / "a").write_bytes(value)
            recorder.wait_state({"sub/a": value})
