"""Filesystems that fsspec knows, with real ones: archives, a web server, memory."""

import io
import os
import random
import secrets
import sys
import tarfile
import threading
import zipfile
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import known_implementations

import datastream
from datastream import (
    DatastreamError,
    Denied,
    InvalidKey,
    ReadOnly,
    SourceUnavailable,
    State,
    Store,
    Unsupported,
)
from datastream.selection import Selection
from datastream.source import Write
from datastream.sources._common import look as _look
from datastream.sources.filesystem import FilesystemSource
from datastream.sources.filesystem.place import PIECE, Opened
from datastream.testing import TIMEOUT, Recorder
from datastream.testing._tools import eventually
from tests.integration._core_sources import Call
from tests.integration._programs.tools import Follower, Statuses


@pytest.fixture
def memory_url():
    url = f"memory://{secrets.token_hex(8)}"
    fsspec.filesystem("memory").makedirs(url.removeprefix("memory:/"))
    return url


@pytest.fixture
def web(tmp_path):
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", tmp_path, server
    server.shutdown()
    server.server_close()
    thread.join(TIMEOUT)


def write_zip(path, files):
    draft = path.with_suffix(".new")
    with zipfile.ZipFile(draft, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    draft.rename(path)


@pytest.mark.parametrize("form", ["zip:{}", "zip://{}", "zip://::file://{}"])
def test_a_zip_archive_that_is_replaced(tmp_path, form):
    path = tmp_path / "a.zip"
    write_zip(path, {"conf/a.json": '{"x": 1}', "b.txt": "one"})
    with datastream.open(form.format(path), interval=0.05) as store:
        assert store["conf/a.json"] == {"x": 1}
        assert {c.key: c.value_type for c in store.capabilities()} == {
            "conf/a.json": "application/json",
            "b.txt": "text/plain",
        }
        recorder = Recorder(store)
        write_zip(path, {"b.txt": "two", "c": "3"})
        recorder.wait_state({"b.txt": b"two", "c": b"3"})
        assert store.features == frozenset()
        with pytest.raises(ReadOnly):
            store.put("b.txt", "three")


def test_a_zip_archive_that_goes_away_and_comes_back(tmp_path):
    path = tmp_path / "a.zip"
    write_zip(path, {"a": "1", "b": "2"})
    with datastream.open(f"zip:{path}", interval=0.05) as store:
        recorder = Recorder(store)
        recorder.wait_state({"a": b"1", "b": b"2"})
        states = []
        store.status.subscribe(lambda status: states.append(status.state))
        path.unlink()
        eventually(lambda: State.STALE in states, "STALE without its archive")
        write_zip(path, {"a": "1", "b": "3"})
        recorder.wait_state({"a": b"1", "b": b"3"})
        assert [entry.key for entry in recorder.live] == ["b"]


def test_a_tar_archive(tmp_path):
    (tmp_path / "x").write_text("inside")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "x", "deep/x")
    with datastream.open(f"tar:{tmp_path / 'a.tar'}") as store:
        assert dict(store) == {"deep/x": "inside"}


def test_a_tar_archive_whose_members_keep_their_time_and_size(tmp_path, monkeypatch):
    """Such are made by programs that give the same archive for the same contents."""
    now = 0.0
    monkeypatch.setattr(_look, "monotonic", lambda: now)
    path, draft = tmp_path / "a.tar", tmp_path / "draft"

    def make(value):
        with tarfile.open(draft, "w") as archive:
            info = tarfile.TarInfo("a")
            info.mtime, info.size = 0, len(value)
            archive.addfile(info, io.BytesIO(value))
        draft.replace(path)

    make(b"one")
    source = FilesystemSource(f"tar:{path}")
    position = source.read(Selection(), None).position
    now += 10
    assert source.read(Selection(), position).position == position
    make(b"two")
    now += 10
    news = source.read(Selection(), position)
    assert [entry.value for entry in news.load(news.entries)] == [b"two"]
    source.close()


def test_a_web_server(web):
    url, directory, _ = web
    (directory / "sub").mkdir()
    (directory / "sub" / "a b.json").write_text("[1]")
    (directory / "x").write_text("one")
    with datastream.open(url, interval=0.05) as store:
        assert dict(store) == {"sub/a b.json": [1], "x": "one"}
        recorder = Recorder(store)
        recorder.wait_state({"sub/a b.json": b"[1]", "x": b"one"})
        (directory / "x").write_text("two")
        (directory / "sub" / "a b.json").unlink()
        recorder.wait_state({"x": b"two"})
        with pytest.raises(ReadOnly):
            store["x"] = 1


def test_a_web_server_that_fails_in_the_middle_deletes_nothing(web):
    url, directory, server = web
    (directory / "sub").mkdir()
    (directory / "sub" / "a").write_text("1")
    (directory / "b").write_text("2")
    with datastream.open(url, interval=0.05) as store:
        recorder = Recorder(store)
        recorder.wait_state({"sub/a": b"1", "b": b"2"})
        states = []
        store.status.subscribe(lambda status: states.append(status.state))
        handler = server.RequestHandlerClass

        class Failing(handler.func):
            def do_GET(self):
                if self.path.startswith("/sub"):
                    self.send_error(503)
                else:
                    super().do_GET()

        server.RequestHandlerClass = partial(Failing, directory=directory)
        eventually(lambda: State.STALE in states, "STALE while a part cannot be listed")
        server.RequestHandlerClass = handler
        (directory / "b").write_text("3")
        recorder.wait_state({"sub/a": b"1", "b": b"3"})
        assert [entry.key for entry in recorder.live] == ["b"]


def test_a_directory_that_may_not_be_listed_on_a_web_server(web, monkeypatch):
    url, directory, server = web
    for name in ("open", "closed"):
        (directory / name).mkdir()
        (directory / name / "a").write_text("1")
    with datastream.open(url, interval=0.05) as store:
        recorder, statuses = Recorder(store), Statuses(store)
        recorder.wait_state({"open/a": b"1", "closed/a": b"1"})
        handler = server.RequestHandlerClass.func
        send_head = handler.send_head

        def refuse(self):
            if self.path.startswith("/closed"):
                return self.send_error(403)
            return send_head(self)

        monkeypatch.setattr(handler, "send_head", refuse)
        (directory / "open" / "a").write_text("2")
        recorder.wait_state({"open/a": b"2", "closed/a": b"1"})
        statuses.wait_degraded("'closed/' (403")
        assert set(store.snapshot()) == {"open/a"}
        with pytest.raises(Denied, match="'closed/a'"):
            store.entry("closed/a")
        monkeypatch.undo()
        statuses.wait_degraded("")
        assert len(recorder.live) == 1


def test_memory_with_slashes_is_fsspecs(memory_url):
    system = fsspec.filesystem("memory")
    place = memory_url.removeprefix("memory:/")
    with datastream.open(memory_url, interval=0.05) as store:
        store["deep/a.yaml"] = "x: 1"
        assert system.cat_file(f"{place}/deep/a.yaml") == b"x: 1"
        assert store["deep/a.yaml"] == {"x": 1}
        recorder = Recorder(store)
        recorder.wait_state({"deep/a.yaml": b"x: 1"})
        system.pipe_file(f"{place}/b", b"\0")
        recorder.wait_state({"deep/a.yaml": b"x: 1", "b": b"\0"})
        with pytest.raises(Unsupported):
            store.put("b", "x", expect="")
    with datastream.open("memory:") as store:
        assert dict(store) == {}


def test_excluded_files_are_left_out(memory_url):
    with datastream.open(f"{memory_url}?exclude=*.tmp,old/**") as store:
        for key in ("a.tmp", "old/x"):
            with pytest.raises(InvalidKey, match="excluded"):
                store[key] = "1"
        system = fsspec.filesystem("memory")
        system.pipe_file(f"{memory_url.removeprefix('memory:/')}/c.tmp", b"")
        store["d"] = 1
        assert list(store) == ["d"]


@pytest.mark.parametrize("key", ["../up", "/abs", "a//b", "./a", "a/.."])
def test_keys_that_no_path_keeps(memory_url, key):
    with datastream.open(memory_url) as store:
        with pytest.raises(InvalidKey):
            store[key] = "1"
        assert dict(store) == {}


def test_what_is_in_the_way_is_said_and_what_was_written_before_it(memory_url):
    with datastream.open(memory_url) as store:
        store["x/a"] = 1
        with pytest.raises(InvalidKey, match="'x' is a directory"):
            store["x"] = 2
        with pytest.raises(InvalidKey, match="1 of 3 writes were made"):
            store.put_many({"ok": 1, "x": 2, "z": 3})
        assert dict(store) == {"x/a": 1, "ok": 1}


def test_an_option_named_like_our_own_argument_is_the_filesystems(memory_url):
    with pytest.raises(DatastreamError):
        datastream.open(f"zip:nowhere.zip?where={memory_url}")


def test_a_place_that_is_not_there():
    with pytest.raises(DatastreamError, match=r"no such place.*create=True"):
        datastream.open(f"memory://{secrets.token_hex(8)}")
    with datastream.open(f"memory://{secrets.token_hex(8)}?create=true") as store:
        assert dict(store) == {}


def test_a_root_that_vanishes_deletes_nothing(memory_url):
    system = fsspec.filesystem("memory")
    place = memory_url.removeprefix("memory:/")
    with datastream.open(memory_url, interval=0.05) as store:
        store["a"] = 1
        recorder = Recorder(store)
        recorder.wait_state({"a": b"1"})
        states = []
        store.status.subscribe(lambda status: states.append(status.state))
        system.rm(place, recursive=True)
        eventually(lambda: State.STALE in states, "STALE without its directory")
        system.pipe_file(f"{place}/a", b"1")
        system.pipe_file(f"{place}/b", b"2")
        recorder.wait_state({"a": b"1", "b": b"2"})
        assert [entry.key for entry in recorder.live] == ["b"]


def test_one_key_of_a_place_that_is_away_is_not_missing(memory_url):
    system = fsspec.filesystem("memory")
    with datastream.open(memory_url) as store:
        store["a"] = 1
        assert "b" not in store
        assert store.entry("a").updated_at is not None
        system.rm(memory_url.removeprefix("memory:/"), recursive=True)
        for key in ("a", "b"):
            with pytest.raises(SourceUnavailable, match="no such place"):
                store.get(key)


@pytest.mark.parametrize(
    ("url", "is_safe"),
    [("memory://{}", True), ("zip:{}/a.zip", True), ("tar:{}/a.tar", False)],
)
def test_filesystems_of_one_connection_get_one_call_at_a_time(tmp_path, url, is_safe):
    write_zip(tmp_path / "a.zip", {"a": "1"})
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "a.zip", "a")
    source = FilesystemSource(url.format(tmp_path), create=True)
    assert source.thread_safe is is_safe
    source.close()


def together(*functions, seconds=2.0):
    """Run each again and again in a thread of its own; fail with what one of them raised."""
    problems, done = [], threading.Event()

    def run(function):
        try:
            while not done.is_set():
                function()
        except Exception as error:
            problems.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    try:
        for thread in threads:
            thread.start()
        done.wait(seconds)
        done.set()
        for thread in threads:
            thread.join(TIMEOUT)
    finally:
        sys.setswitchinterval(before)
    assert not problems
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("scheme", ["memory", "local"])
def test_a_name_of_a_directory_can_be_a_key_once_all_below_is_deleted(tmp_path, scheme):
    place = f"memory://{tmp_path.name}" if scheme == "memory" else f"local://{tmp_path}"
    with datastream.open(place, create=True) as store:
        store.put_many({"a/b/c": 1, "a/d": 1, "e/f/g": 1})
        store.delete("a/b/c")
        store["a/b"] = 2
        store.delete("e/f/g")
        store["e"] = 2
        assert dict(store) == {"a/b": 2, "a/d": 1, "e": 2}
        for key in list(store):
            store.delete(key)
        assert dict(store) == {}


def test_two_writes_within_one_tick_of_the_clock_are_two(tmp_path):
    """The system's clock of files moves every few milliseconds."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"one")
    with Store(FilesystemSource(f"file://{tmp_path}", interval=0.05)) as store:
        follower = Follower(store)
        follower.wait_key("a.txt", b"one")
        for value in (b"two", b"six"):
            with path.open("r+b") as file:
                file.write(b"was")
                file.flush()
                at = path.stat().st_mtime_ns
                follower.wait_key("a.txt", b"was")
                file.seek(0)
                file.write(value)
            os.utime(path, ns=(at, at))
            follower.wait_key("a.txt", value)


def test_a_directory_that_a_delete_removes_meanwhile_is_made_again(monkeypatch):
    with datastream.open("memory://meanwhile", create=True) as store:
        store["a/b"] = 1
        pipe_file = MemoryFileSystem.pipe_file

        def overtaken(system, path, value):
            if system.exists(path.replace("c", "b")):
                system.rm_file(path.replace("c", "b"))
                system.rmdir(path.rpartition("/")[0])
                # As of a filesystem that needs the directory; this one does not.
                raise FileNotFoundError(path)
            pipe_file(system, path, value)

        monkeypatch.setattr(MemoryFileSystem, "pipe_file", overtaken)
        store["a/c"] = 2
        assert dict(store) == {"a/c": 2}


def test_a_put_of_what_another_client_removes_at_once_is_done(monkeypatch, memory_url):
    pipe_file = MemoryFileSystem.pipe_file

    def removed(system, path, value):
        pipe_file(system, path, value)
        system.rm_file(path)

    with datastream.open(memory_url) as store:
        monkeypatch.setattr(MemoryFileSystem, "pipe_file", removed)
        assert store.put("a", 1).value == b"1"
        assert store.get("a") is None


@pytest.mark.parametrize("cache", ["filecache", "simplecache", "blockcache"])
def test_a_cache_that_hides_changes_is_refused(tmp_path, cache):
    with pytest.raises(DatastreamError, match=f"leave {cache}:: out"):
        datastream.open(f"{cache}::file://{tmp_path}")


def test_an_archive_is_read_while_it_is_replaced(tmp_path):
    """What is read stays open, and what is not read any more is closed."""
    path = tmp_path / "a.zip"
    write_zip(path, {f"k{n}": "first" for n in range(5)})
    source = FilesystemSource(f"zip:{path}")
    opened = []
    real = source._open
    everything = Selection()

    def counted():
        one = real()
        opened.append(one)
        return one

    source._open = counted

    def replace():
        write_zip(path, {f"k{n}": secrets.token_hex(4) for n in range(5)})

    def read_all():
        with suppress(FileNotFoundError):
            reading = source.read(everything, None)
            assert len(reading.load(reading.entries)) == 5

    def read_one():
        assert source.get("k1").key == "k1"
        assert source.get("none") is None

    together(replace, read_all, read_all, read_one, read_one, read_one)
    assert all(one.retired != (one is source._opened) for one in opened)
    assert not any(one.users for one in opened)
    assert all(one._system.zip.fp is None for one in opened if one.retired)
    assert all(one._system.fo.closed for one in opened if one.retired)
    source.close()


def test_a_reader_that_opened_an_archive_before_it_was_replaced(tmp_path, monkeypatch):
    """Its handle, which comes last, does not take the place of the newer one."""
    path, everything = tmp_path / "a.zip", Selection()
    write_zip(path, {"k": "old", "same": "1"})
    source = FilesystemSource(f"zip:{path}")
    position = source.read(everything, None).position
    opens, has_opened, go = source._open, threading.Event(), threading.Event()
    newer = threading.current_thread()

    def slow():
        opened = opens()
        if threading.current_thread() is not newer:
            has_opened.set()
            assert go.wait(TIMEOUT)
        return opened

    monkeypatch.setattr(source, "_open", slow)
    late = Call(source.read, everything, None)
    assert has_opened.wait(TIMEOUT)
    write_zip(path, {"k": "new", "same": "1"})
    files = Opened.files

    def listed(self):
        yield from files(self)
        if threading.current_thread() is newer:
            go.set()
            late.ends()

    monkeypatch.setattr(Opened, "files", listed)
    for _ in range(2):
        reading = source.read(everything, position)
        assert reading.complete
        entries = reading.load(reading.entries)
        assert {entry.key: entry.value for entry in entries} == {"k": b"new", "same": b"1"}
    source.close()


@pytest.mark.chaos
def test_many_threads_mix_everything(memory_url):
    source = FilesystemSource(memory_url)
    chance, everything, newest = random.Random(1), Selection(), {}

    def write(me):
        key = f"{me}/{chance.choice('abc')}"
        value = newest.get(key, 0) + 1
        source.write([Write(key, b"%d" % value)])
        newest[key] = value
        if chance.random() < 0.2:
            key = f"{me}/gone/{value}"
            source.write([Write(key, b"1")])
            source.write([Write(key, None)])

    def read_all():
        least = dict(newest)
        reading = source.read(everything, chance.choice([None, "elsewhere"]))
        found = {e.key: int(e.value) for e in reading.load(reading.entries) if e.value}
        assert all(found.get(key, 0) >= number for key, number in least.items())
        source.capabilities()

    def read_one():
        for key, least in list(newest.items()):
            assert int(source.get(key).value) >= least

    together(
        *(partial(write, me) for me in range(3)), read_all, read_all, read_one, read_one, seconds=3
    )
    source.close()


@pytest.mark.parametrize("scheme", sorted(set(known_implementations) - {"memory"}))
def test_every_filesystem_opens_or_says_why_not(scheme):
    with suppress(ImportError, DatastreamError):
        datastream.open(f"{scheme}://127.0.0.1:1/nothing").close()


@pytest.mark.parametrize(
    ("url", "package"), [("gs://bucket/x", "gcsfs"), ("hdfs://localhost/x", "pyarrow")]
)
def test_the_package_to_install_is_named(url, package, monkeypatch):
    # As where it is not installed.
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"pip install {package}"):
        datastream.open(url)


def test_pieces_of_a_file_in_memory_are_one_readers_alone():
    """fsspec gives all who open it the same object."""
    content = secrets.token_bytes(2 * PIECE + 1)
    with datastream.open(f"memory://{secrets.token_hex(4)}", create=True) as store:
        store["a"] = content
        one, other = store._source.pieces("a"), store._source.pieces("a")
        begun = [next(one), next(other)]
        assert [b"".join([begun[0], *one]), b"".join([begun[1], *other])] == [content, content]


def test_a_reader_does_not_move_who_writes_pieces_in_memory():
    content = secrets.token_bytes(3 * PIECE)
    with datastream.open(f"memory://{secrets.token_hex(4)}", create=True) as store:
        store["a"] = content

        def pieces():
            yield content[: 2 * PIECE]
            next(store._source.pieces("a"))
            yield content[2 * PIECE :]

        store._source.put_pieces("a", pieces())
        assert store.entry("a").value == content
