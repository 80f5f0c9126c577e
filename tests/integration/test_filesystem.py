"""Filesystems that fsspec knows, with real ones: archives, a web server, memory."""

import secrets
import tarfile
import threading
import zipfile
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest
from fsspec.registry import known_implementations

import datastream
from datastream import DatastreamError, InvalidKey, ReadOnly, State, Unsupported
from datastream.testing import TIMEOUT, Recorder
from datastream.testing._tools import eventually


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


@pytest.mark.parametrize("scheme", sorted(set(known_implementations) - {"memory"}))
def test_every_filesystem_opens_or_says_why_not(scheme):
    with suppress(ImportError, DatastreamError):
        datastream.open(f"{scheme}://127.0.0.1:1/nothing").close()


def test_the_package_to_install_is_named():
    with pytest.raises(ImportError, match="pip install gcsfs"):
        datastream.open("gs://bucket/x")
