"""Archives with members that cannot be read, and archives that somebody made to break readers."""

import io
import random
import shutil
import struct
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest

import datastream
from datastream import DatastreamError, Denied, State
from datastream.sources._common import unread as _unread
from datastream.testing import Recorder
from tests.integration._programs.tools import Statuses

GOOD = {"good": "1", "deep/good.json": "{}"}


def zip_of(files, edit=lambda data: data, **more):
    """The bytes of a ZIP archive."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", **more) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return edit(stream.getvalue())


def tar_of(*members, **files):
    """The bytes of a tar archive: files, and members as (name, type, target)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in {**GOOD, **files}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content.encode()))
        for name, kind, target in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    return stream.getvalue()


def flagged(name, offset, value):
    """Changes a field of one member, in both of its headers."""

    def edit(data):
        data = bytearray(data)
        for magic, start, at in ((b"PK\1\2", 46, offset + 2), (b"PK\3\4", 30, offset)):
            place = -1
            while (place := data.find(magic, place + 1)) >= 0:
                if data[place + start :].startswith(name.encode()):
                    struct.pack_into("<H", data, place + at, value)
        return bytes(data)

    return edit


def damaged(text):
    return lambda data: data.replace(text, text.swapcase(), 1)


BAD = {
    "encrypted": ("zip", zip_of({**GOOD, "bad": "2"}, flagged("bad", 6, 1))),
    "compressed in an unknown way": ("zip", zip_of({**GOOD, "bad": "2"}, flagged("bad", 8, 97))),
    "checksum": ("zip", zip_of({**GOOD, "bad": "abcdefg"}, damaged(b"abcdefg"))),
    "broken link": ("tar", tar_of(("bad", tarfile.SYMTYPE, "nowhere"))),
    "broken hard link": ("tar", tar_of(("bad", tarfile.LNKTYPE, "nowhere"))),
    "link to itself": ("tar", tar_of(("bad", tarfile.SYMTYPE, "bad"))),
    "link to a directory": ("tar", tar_of(("bad", tarfile.SYMTYPE, "deep"))),
    "device": ("tar", tar_of(("bad", tarfile.CHRTYPE, ""))),
    "pipe": ("tar", tar_of(("bad", tarfile.FIFOTYPE, ""))),
}


REASONS = {
    "checksum": "(Bad CRC-32 for file 'bad')",
    "broken link": "(linkname 'nowhere' not found)",
    "pipe": "(it is no regular file, or damaged)",
}


def replace(path, data):
    draft = path.with_suffix(".draft")
    draft.write_bytes(data)
    draft.rename(path)


@pytest.mark.parametrize("kind", BAD)
def test_one_member_that_cannot_be_read_is_left_out(tmp_path, kind, caplog):
    scheme, data = BAD[kind]
    path = tmp_path / f"a.{scheme}"
    path.write_bytes(data)
    with datastream.open(f"{scheme}:{path}", interval=0.05) as store:
        recorder, statuses = Recorder(store), Statuses(store)
        recorder.wait_state({"good": b"1", "deep/good.json": b"{}"})
        statuses.wait_degraded("'bad' " + REASONS.get(kind, "("))
        assert set(store.snapshot()) == set(store) == set(dict(store)) == set(GOOD)
        assert store["good"] == 1
        with pytest.raises(Denied, match="'bad'"):
            store.entry("bad")
        assert store.status.current.state is State.READY
        replace(path, zip_of({"good": "3"}) if scheme == "zip" else tar_of(good="3"))
        recorder.wait(lambda recorder: recorder.state.get("good") == b"3", "the others go on")
        statuses.wait_degraded("")
    assert caplog.text.count("cannot be read and is left out") == 1


def test_a_member_that_becomes_unreadable_is_kept_by_those_who_have_it(tmp_path, monkeypatch):
    monkeypatch.setattr(_unread, "RETRY_FIRST", 0.05)
    path = tmp_path / "a.zip"
    path.write_bytes(zip_of({**GOOD, "bad": "1"}))
    with datastream.open(f"zip:{path}", interval=0.05) as store:
        recorder, statuses = Recorder(store), Statuses(store)
        recorder.wait_state({"good": b"1", "deep/good.json": b"{}", "bad": b"1"})
        replace(path, BAD["encrypted"][1])
        statuses.wait_degraded("'bad' (")
        newcomer = Recorder(store, "bad", "good")
        newcomer.wait_state({"good": b"1"})
        replace(path, zip_of({**GOOD, "bad": "1"}))
        newcomer.wait_state({"good": b"1", "bad": b"1"})
        assert recorder.live == []


# --- names ---


def test_a_tar_archive_of_the_directory_itself(tmp_path):
    """Its members are ``./a`` to who made it by ``tar -C directory .``, as ``shutil`` does too."""
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "a").write_text("1")
    (folder / "deep/b").write_text("2")
    (folder / "link").symlink_to("a")
    path = shutil.make_archive(str(tmp_path / "made"), "gztar", folder)
    expected = {"a": b"1", "deep/b": b"2", "link": b"1"}
    with datastream.open(f"tar:{path}", interval=0.05) as store:
        recorder = Recorder(store)
        recorder.wait_state(expected)
        assert dict(store) == {"a": 1, "deep/b": 2, "link": 1}
        assert store["deep/b"] == 2
        (folder / "a").write_text("3")
        (tmp_path / "draft").write_bytes(
            Path(shutil.make_archive(str(tmp_path / "again"), "gztar", folder)).read_bytes()
        )
        (tmp_path / "draft").rename(path)
        recorder.wait_state(expected | {"a": b"3", "link": b"3"})
    with datastream.open(f"tar://deep::file://{path}") as store:
        assert dict(store) == {"b": 2}


def test_the_last_of_several_members_of_one_path_counts(tmp_path):
    """It is the one that stays when all are extracted."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in (("a", b"1"), ("./a", b"2"), ("./b", b"1"), ("b", b"2")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with datastream.open(f"tar:{path}") as store:
        assert dict(store) == {"a": 2, "b": 2}


@pytest.mark.parametrize("scheme", ["zip", "tar"])
def test_names_are_those_that_are_extracted(tmp_path, scheme, caplog):
    names = ("/top", "./dot", "x//twice", "x/./y", "../out", "a/../out")
    path = tmp_path / f"a.{scheme}"
    files = dict.fromkeys(names, "1")
    path.write_bytes(zip_of(files) if scheme == "zip" else tar_of(**files))
    expected = dict.fromkeys(("top", "dot", "x/twice", "x/y"), 1)
    if scheme == "tar":
        expected |= {"good": 1, "deep/good.json": {}}
    with datastream.open(f"{scheme}:{path}", interval=0.01) as store:
        recorder = Recorder(store)
        recorder.wait_ready()
        assert dict(store) == expected
        assert {key: store[key] for key in store} == expected
    left_out = [r.getMessage() for r in caplog.records if "is left out" in r.getMessage()]
    assert len(left_out) == 2
    assert all(line.startswith(f"{scheme}:{path}: a file is left out: ") for line in left_out)


@pytest.mark.parametrize("scheme", ["zip", "tar"])
@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")], ids=["above", "below"])
def test_a_member_may_be_above_another_one(tmp_path, scheme, names):
    path = tmp_path / f"a.{scheme}"
    files = dict.fromkeys((*names, "good"), "1")
    path.write_bytes(zip_of(files) if scheme == "zip" else tar_of(**files))
    with datastream.open(f"{scheme}:{path}") as store:
        assert store["a/b"] == 1
        assert {"a", "a/b", "good"} <= set(store) == set(store.snapshot())


# --- made to break readers ---


def odd_archives():
    yield "zip", b""
    yield "tar", b""
    yield "zip", b"PK\5\6" + b"\0" * 18
    for name in ("../out", "/root", "a//b", "./a", "a/../b", "a\nb", "\x1b[31m", "ü", "a\\b", " "):
        yield "zip", zip_of({**GOOD, name: "x"})
        yield "tar", tar_of(**{name: "x"})
    for field, values in ((4, (0, 99)), (6, (8, 2048)), (8, (1, 12, 14)), (10, (0, 65535))):
        for value in values:
            yield "zip", zip_of({**GOOD, "bad": "2"}, flagged("bad", field, value))
    for date in (0, 0x1E0, 65535):
        yield "zip", zip_of({**GOOD, "bad": "2"}, flagged("bad", 12, date))
    yield "tar", tar_of(("a", tarfile.SYMTYPE, "b"), ("b", tarfile.SYMTYPE, "a"))
    yield "tar", tar_of(*((f"l{n}", tarfile.SYMTYPE, f"l{n + 1}") for n in range(50)))
    yield "tar", tar_of(("good", tarfile.DIRTYPE, ""), ("deep", tarfile.LNKTYPE, "good"))


def mutated(chance, scheme, data):
    data = bytearray(data)
    if chance.random() < 0.3:
        del data[chance.randrange(len(data)) :]
    for _ in range(chance.randrange(1, 6) if data else 0):
        data[chance.randrange(len(data))] = chance.choice((0, 1, 127, 128, 255))
    return bytes(data)


def read_all(scheme, path):
    """Whatever it holds, only errors of ours come out."""
    with suppress(DatastreamError), datastream.open(f"{scheme}:{path}", interval=60) as store:
        for key in store:
            with suppress(DatastreamError):
                store.entry(key)
        store.snapshot()


@pytest.mark.parametrize("number", range(len(list(odd_archives()))))
def test_odd_archives(tmp_path, number, caplog):
    scheme, data = list(odd_archives())[number]
    path = tmp_path / f"a.{scheme}"
    path.write_bytes(data)
    read_all(scheme, path)
    assert "unexpected" not in caplog.text
    assert "\x1b" not in caplog.text


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.chaos) for n in (1, 2, 3))]
)
def test_damaged_archives(tmp_path, seed, caplog):
    chance = random.Random(seed)
    kinds = [*BAD.values(), ("zip", zip_of(GOOD, compression=zipfile.ZIP_DEFLATED))]
    kinds += [("zip", zip_of(GOOD, compression=zipfile.ZIP_LZMA))]
    kinds += [("zip", zip_of(GOOD, compression=zipfile.ZIP_BZIP2))]
    for _ in range(25):
        scheme, data = chance.choice(kinds)
        path = tmp_path / f"a.{scheme}"
        path.write_bytes(mutated(chance, scheme, data))
        read_all(scheme, path)
    assert "unexpected" not in caplog.text


@pytest.mark.parametrize("at", [300, 512, 700, 1024, 1200, 1536], ids=str)
def test_a_tar_archive_that_is_cut_is_no_shorter_one(tmp_path, at):
    """As while somebody copies it over the old one, or a disk was full."""
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of(later="x"))
    with datastream.open(f"tar:{path}", interval=0.01) as store:
        recorder, statuses = Recorder(store), Statuses(store)
        whole = {"good": b"1", "deep/good.json": b"{}", "later": b"x"}
        recorder.wait_state(whole)
        path.write_bytes(tar_of(later="x")[:at])
        statuses.wait(State.STALE)
        with pytest.raises(DatastreamError), datastream.open(f"tar:{path}") as fresh:
            fresh.snapshot()
        path.write_bytes(tar_of(later="y"))
        recorder.wait_state({**whole, "later": b"y"})
        assert not [entry for entry in recorder.entries if not entry.revision]


def test_a_damaged_header_is_not_the_end_of_a_tar_archive(tmp_path):
    data = bytearray(tar_of(later="x"))
    data[1024 + 100] ^= 0xFF
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    with pytest.raises(DatastreamError, match="cut or damaged"):
        datastream.open(f"tar:{path}").snapshot()
