"""The directory is replaced between any two system calls of a read or a write."""

import json
import os
import resource
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from datastream import SourceUnavailable
from datastream.selection import Selection
from datastream.source import Write
from datastream.sources.files import FilesSource
from datastream.sources.files.held import Held
from tests.integration.files.tools import ROOT_ONLY, tmpfs, unmount

ALL = Selection()
CALLS = ("open", "stat", "make", "remove", "remove_empty", "rename", "keep", "sync")
MOST_CALLS = 400


class Meanwhile:
    """Does something before the call number `at` of what `Held` offers."""

    def __init__(self, monkeypatch, at, action):
        self.left = at
        self.action = action
        for name in CALLS:
            monkeypatch.setattr(Held, name, self._spied(getattr(Held, name)))

    @property
    def happened(self):
        return self.left < 0

    def _spied(self, real):
        def call(*args, **kwargs):
            self.left -= 1
            if self.left == -1:
                self.action()
            return real(*args, **kwargs)

        return call


def fill(directory, value):
    (directory / "d").mkdir(parents=True, exist_ok=True)
    for name in ("a", "b", "d/c", "d/e"):
        (directory / name).write_text(value)


def tree_of(directory):
    return {
        path.relative_to(directory).as_posix(): path.is_file() and path.read_bytes()
        for path in directory.rglob("*")
    }


class Directory:
    """A directory, another one to take its place, and where it is moved to."""

    def __init__(self, tmp_path, number):
        self.base = tmp_path / str(number)
        self.path, self.other, self.away = (self.base / name for name in ("conf", "new", "old"))
        fill(self.path, "1")
        fill(self.other, "2")
        self.source = FilesSource(self.path)

    def another(self):
        self.path.rename(self.away)
        self.other.rename(self.path)
        self.other = self.path

    def link(self):
        self.path.rename(self.away)
        self.path.symlink_to(self.other)

    def file(self):
        self.path.rename(self.away)
        self.path.write_text("")

    def nothing(self):
        self.path.rename(self.away)

    def removed(self):
        shutil.rmtree(self.path)


KINDS = ("another", "link", "file", "nothing", "removed")
WRITES = {
    "put": [Write("a", b"3")],
    "put below": [Write("x/y/z", b"3")],
    "put_many": [Write("a", b"3"), Write("n/x", b"3")],
    "delete": [Write("d/c", None)],
    "delete many": [Write("d/c", None), Write("d/e", None)],
}


def every_moment(tmp_path, monkeypatch, kind, act):
    """`act` on a directory that is replaced before the first of its calls, the second, …"""
    for at in range(MOST_CALLS):
        directory = Directory(tmp_path, at)
        with monkeypatch.context() as patch:
            meanwhile = Meanwhile(patch, at, getattr(directory, kind))
            act(directory)
        directory.source.close()
        if not meanwhile.happened:
            return
    raise AssertionError("it never ended")


@pytest.mark.parametrize("what", WRITES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_write_touches_nothing_that_took_its_place(tmp_path, monkeypatch, kind, what):
    refused = []

    def act(directory):
        before = tree_of(directory.other)
        try:
            directory.source.write(WRITES[what])
        except (SourceUnavailable, OSError) as error:
            refused.append(directory.source.translate(error, "a"))
            if kind in ("nothing", "removed"):
                assert not list(directory.base.glob("conf")), "made anew"
        assert tree_of(directory.other) == before

    every_moment(tmp_path, monkeypatch, kind, act)
    assert len(refused) > 5
    assert {type(error) for error in refused} == {SourceUnavailable}


@pytest.mark.parametrize("kind", KINDS)
def test_a_read_is_of_one_directory(tmp_path, monkeypatch, kind):
    old, new = (
        dict.fromkeys(("a", "b", "d/c", "d/e"), b"1"),
        dict.fromkeys(("a", "b", "d/c", "d/e"), b"2"),
    )

    def act(directory):
        with suppress(SourceUnavailable):
            entries = directory.source.read(ALL, None).entries
            assert {entry.key: entry.value for entry in entries} in (old, new)

    every_moment(tmp_path, monkeypatch, kind, act)


def test_a_read_while_another_directory_is_there_for_a_moment(tmp_path, monkeypatch):
    """Path and inode are the same before and after."""

    def act(directory):
        def come_back():
            directory.path.unlink()
            directory.away.rename(directory.path)

        real = Held.open

        def slow(held, *args):
            handle = real(held, *args)
            if directory.path.is_symlink():
                come_back()
            return handle

        monkeypatch.setattr(Held, "open", slow)
        entries = directory.source.read(ALL, None).entries
        assert {entry.value for entry in entries} == {b"1"}
        assert len(entries) == 4
        monkeypatch.setattr(Held, "open", real)

    every_moment(tmp_path, monkeypatch, "link", act)


def test_one_key_while_the_directory_is_replaced(tmp_path, monkeypatch):
    def act(directory):
        with suppress(SourceUnavailable):
            assert directory.source.get("d/c").value in (b"1", b"2")

    for kind in KINDS:
        every_moment(tmp_path / kind, monkeypatch, kind, act)


@ROOT_ONLY
@pytest.mark.parametrize("what", ["put", "put_many"])
def test_a_write_never_reaches_what_lies_under_a_mount(tmp_path, monkeypatch, what):
    for at in range(1, 60, 4):
        path = tmp_path / str(at)
        fill(path, "2")
        before = tree_of(path)
        with tmpfs(path):
            fill(path, "1")
            source = FilesSource(path)
            with monkeypatch.context() as patch:
                Meanwhile(patch, at, lambda path=path: unmount(path))
                with suppress(SourceUnavailable, OSError):
                    source.write(WRITES[what])
            unmount(path)
            assert tree_of(path) == before
            with pytest.raises(SourceUnavailable, match="mounted"):
                source.write(WRITES[what])
            assert tree_of(path) == before
            source.close()


def test_a_journal_that_leads_out_is_not_followed(root, tmp_path):
    source = FilesSource(root)
    source.write([Write("a", b"1")])
    for target in ("../out", "/tmp/out", "x/../../out", ""):
        step = {"target": target, "staged": None, "before": ""}
        (root / ".datastream" / "journal").write_text(json.dumps([step]))
        with pytest.raises(SourceUnavailable, match="journal is damaged"):
            source.write([Write("a", b"2")])
    for text in ("", "[", "[1]", '[{"x": 1}]', "\xff"):
        (root / ".datastream" / "journal").write_text(text, encoding="latin-1")
        with pytest.raises(SourceUnavailable, match="journal is damaged"):
            source.write([Write("a", b"2")])
    (root / ".datastream" / "journal").unlink()
    source.write([Write("a", b"2")])
    source.close()


def test_a_staging_area_that_leads_out_is_not_used(root, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    source = FilesSource(root)
    (root / ".datastream").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SourceUnavailable, match="no directory; remove it"):
        source.write([Write("a", b"1")])
    assert not tree_of(tmp_path / "elsewhere")
    assert source.read(ALL, None).entries == []
    source.close()


def test_no_descriptor_left_is_no_missing_mount(root):
    (root / "a").write_text("1")
    source = FilesSource(root)
    calls = {
        "read": lambda: [entry.key for entry in source.read(ALL, None).entries],
        "get": lambda: [source.get("a").key],
        "list": lambda: [capability.key for capability in source.capabilities()],
        "write": lambda: [entry.key for entry in source.write([Write("a", b"2")]).entries],
    }
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    texts, taken = [], []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 8, hard))
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for handle in taken[:8]:
            for call in calls.values():
                try:
                    found = call()
                except (SourceUnavailable, OSError) as error:
                    texts.append(str(error))
                else:
                    assert found == ["a"]
            os.close(handle)
    finally:
        for handle in taken[8:]:
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert texts
    assert all("Too many open files" in text for text in texts)
    source.close()
