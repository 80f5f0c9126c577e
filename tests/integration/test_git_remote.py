"""Remotes over HTTP with basic auth, over SSH through a command of ours, and by path."""

import logging
import os
import shutil
import subprocess
import sys
import threading
from contextlib import ExitStack

import pytest
from dulwich.refs import DiskRefsContainer

import datastream
from datastream import (
    DatastreamError,
    Denied,
    RevisionConflict,
    SourceUnavailable,
    State,
    Store,
    Unsupported,
    _flock,
)
from datastream.selection import Selection
from datastream.sources.git import RemoteGitSource, clone, tracking
from datastream.sources.git.clone import TIP
from datastream.sources.git.objects import Objects
from datastream.sources.git.remote import Remote
from datastream.testing import TIMEOUT, Recorder
from datastream.testing._conformance import _await_state, _follow_status
from tests.integration._programs.tools import eventually
from tests.repositories import Repository, clones, git_environment  # noqa: F401  (a fixture)
from tests.servers.git_http import PASSWORD, USER, GitServer


@pytest.fixture
def bare(tmp_path):
    return Repository.new(tmp_path / "served" / "bare.git", bare=True)


@pytest.fixture
def server(bare):
    bare.git("config", "http.receivepack", "true")
    server = GitServer(bare.path.parent)
    yield server
    server.close()


@pytest.fixture
def url(server):
    return f"git+{server.url}/bare.git"


def opened(url, **options):
    given = {"interval": 0.05, "username": USER, "password": PASSWORD, "timeout": 10.0}
    return datastream.open(url, **(given | options))


@pytest.fixture
def ssh(tmp_path):
    """What runs instead of ssh: the last argument is the command, all else is for nothing."""
    script = tmp_path / "ssh"
    script.write_text('#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n')
    script.chmod(0o755)
    return str(script)


def test_http_with_a_password(url, bare):
    bare.import_commit({"a": "1"})
    with opened(url) as store, opened(url, cache=str(bare.path.with_name("other"))) as other:
        recorder = Recorder(store)
        recorder.wait_state({"a": b"1"})
        store.put_many({"b": 2, "c": 3})
        assert bare.files("main") == {b"a": b"1", b"b": b"2", b"c": b"3"}
        Recorder(other).wait_state({"a": b"1", "b": b"2", "c": b"3"})
        bare.import_commit({"a": "by git"})
        recorder.wait(lambda r: r.state["a"] == b"by git")
        assert len(recorder.batches) == 3


def test_ssh_through_a_command(bare, ssh, monkeypatch):
    bare.import_commit({"a": "1"})
    url = f"git+ssh://git@localhost{bare.path}"
    with datastream.open(url, ssh_command=ssh, interval=0.05) as store:
        assert dict(store) == {"a": 1}
        store["b"] = 2
        assert bare.files("main")[b"b"] == b"2"
        recorder = Recorder(store)
        bare.import_commit({"a": "by git"})
        recorder.wait_state({"a": b"by git", "b": b"2"})
    monkeypatch.setenv("GIT_SSH_COMMAND", ssh)
    with datastream.open(url, cache=str(bare.path.with_name("other"))) as store:
        assert store["b"] == 2


def test_ssh_in_a_process_with_many_descriptors(bare, ssh):
    bare.import_commit({"a": "1"})
    with ExitStack() as held:
        while (descriptor := os.dup(0)) <= 1024:
            held.callback(os.close, descriptor)
        held.callback(os.close, descriptor)
        url = f"git+ssh://git@localhost{bare.path}"
        with datastream.open(url, ssh_command=ssh, interval=0.05) as store:
            recorder = Recorder(store)
            store["b"] = 2
            bare.import_commit({"a": "by git"})
            recorder.wait_state({"a": b"by git", "b": b"2"})


def test_ssh_that_refuses_or_says_nothing(bare, tmp_path):
    refuses, silent = tmp_path / "refuses", tmp_path / "silent"
    refuses.write_text("#!/bin/sh\necho 'git@host: Permission denied (publickey).' >&2\nexit 255\n")
    silent.write_text("#!/bin/sh\nexec sleep 30\n")
    url = f"git+ssh://git@localhost{bare.path}"
    for script in (refuses, silent):
        script.chmod(0o755)
    with pytest.raises(Denied, match="publickey"):
        datastream.open(url, ssh_command=str(refuses))
    with pytest.raises(SourceUnavailable, match=r"no answer for 0\.2 s"):
        datastream.open(url, ssh_command=str(silent), timeout=0.2)


def test_a_path_as_a_remote(bare):
    bare.import_commit({"a": "1"})
    with datastream.open(f"git+file://{bare.path}", interval=0.05) as store:
        recorder = Recorder(store)
        store["b"] = 2
        bare.import_commit({"a": "by git"})
        recorder.wait_state({"a": b"by git", "b": b"2"})


@pytest.mark.parametrize("scheme", ["file", "http"])
def test_a_remote_that_is_a_shallow_clone(bare, server, tmp_path, scheme):
    for number in range(4):
        bare.import_commit({"a": str(number), "b": "kept"})
    shallow = Repository(tmp_path / "served" / "shallow.git")
    bare.git("clone", "-q", "--bare", "--depth", "2", f"file://{bare.path}", shallow.path)
    shallow.git("config", "http.receivepack", "true")
    remote = f"{server.url}/shallow.git" if scheme == "http" else f"file://{shallow.path}"
    with opened(f"git+{remote}") as store:
        assert dict(store) == {"a": 3, "b": "kept"}
        assert [revision.entry.decode() for revision in store.history("a")] == [3, 2]
        recorder = Recorder(store)
        store["c"] = 1
        shallow.import_commit({"a": "by git"})
        recorder.wait_state({"a": b"by git", "b": b"kept", "c": b"1"})
    shallow.fsck()


def test_a_path_whose_branch_is_checked_out_is_not_pushed_to(tmp_path):
    repository = Repository.new(tmp_path / "checked-out")
    head = repository.commit({"a": "1"})
    with datastream.open(f"git+file://{repository.path}") as store:
        with pytest.raises(Denied, match="checked out"):
            store["a"] = 2
    assert repository.head() == head


@pytest.mark.parametrize("with_commit", [False, True])
def test_ids_of_another_kind_are_refused_before_anything_is_written(tmp_path, with_commit):
    served = tmp_path / "served"
    there = Repository(served / "there.git")
    there.path.mkdir(parents=True)
    there.git("init", "-q", "--bare", "-b", "main", "--object-format=sha256")
    if with_commit:
        there.import_commit({"a": "1"})
    there.git("config", "http.receivepack", "true")
    before = sorted(there.path.rglob("*"))
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\nfor last; do :; done\neval "$last"\n')
    ssh.chmod(0o755)
    server = GitServer(served)
    try:
        for url, options in (
            (f"git:{there.path}", {}),
            (f"git+file://{there.path}", {}),
            (f"git+{server.url}/there.git", {"username": USER, "password": PASSWORD}),
            (f"git+ssh://git@localhost{there.path}", {"ssh_command": str(ssh)}),
        ):
            with pytest.raises(Unsupported, match="SHA-1"):
                datastream.open(url, **options)["a"] = 2
    finally:
        server.close()
    assert sorted(there.path.rglob("*")) == before
    assert not [
        path for path in clones(tmp_path) if (path / "objects/pack").exists() and with_commit
    ]


def test_an_empty_remote_gets_its_first_branch(url, bare):
    with opened(url) as store:
        recorder = Recorder(store)
        recorder.wait_ready()
        store["a"] = 1
        recorder.wait_state({"a": b"1"})
    assert bare.files("main") == {b"a": b"1"}


# Credentials.


def test_wrong_credentials_are_denied_and_never_shown(url, caplog, tmp_path):
    caplog.set_level(logging.DEBUG)
    for options in (
        {"password": "wrong-secret"},
        {"password": "", "username": "", "token": "wrong-secret"},
    ):
        with pytest.raises(Denied) as caught:
            opened(url, **options)
        assert "wrong-secret" not in f"{caught.value!r} {caught.value.__context__!r}"
    with_secret = url.replace("://", "://reader:wrong-secret@")
    with pytest.raises(Denied) as caught:
        datastream.open(with_secret)
    assert "wrong-secret" not in str(caught.value)
    assert "wrong-secret" not in caplog.text
    assert clones(tmp_path) == []


def test_credentials_leave_no_trace(bare, server, url, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    bare.import_commit({"a": "1"})
    in_url = url.replace("://", f"://{USER}:s3cr3t-p%40ss%2Fword@")
    statuses = []
    for place, options in ((url, {"username": USER, "password": PASSWORD}), (in_url, {})):
        with datastream.open(place, interval=0.05, **options) as store:
            statuses.append(f"{store!r} {store.name} {vars(store._source)!r}")
            store["b"] = len(statuses)
            store.status.subscribe(lambda status: statuses.append(repr(status)))
            recorder = Recorder(store)
            server.status = 401
            store.refresh()
            recorder.wait_ready()
            with pytest.raises(Denied) as caught:
                store["c"] = 1
            statuses.append(str(caught.value))
            server.status = None
    told = " ".join(statuses) + caplog.text
    for secret in (PASSWORD, "s3cr3t", "p%40ss"):
        assert secret not in told
        for place in (tmp_path / "cache").rglob("*"):
            assert secret not in place.name
            assert not place.is_file() or secret.encode() not in place.read_bytes()
    assert len(clones(tmp_path)) == 1, "the same clone, whoever asks"


def test_a_token_needs_no_username(bare, tmp_path):
    bare.import_commit({"a": "1"})
    server = GitServer(bare.path.parent, user="x-access-token", password="a-token")
    try:
        with datastream.open(f"git+{server.url}/bare.git", token="a-token") as store:
            assert store["a"] == 1
        with pytest.raises(DatastreamError, match="not both"):
            opened(f"git+{server.url}/bare.git", token="a-token")
    finally:
        server.close()


def test_a_lone_token_in_a_url_is_not_shown():
    with pytest.raises(DatastreamError) as caught:
        datastream.open("git+https://ghp_sEcReT@github.com/x/y?colour=red")
    assert "ghp_sEcReT" not in str(caught.value)


def test_a_remote_that_may_only_be_read(url, bare, server):
    bare.import_commit({"a": "1"})
    bare.git("config", "http.receivepack", "false")
    with opened(url) as store:
        assert store["a"] == 1
        with pytest.raises(Denied):
            store["a"] = 2
        assert store["a"] == 1


def test_a_hook_that_declines(url, bare):
    bare.import_commit({"a": "1"})
    hook = bare.path / "hooks/pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho no; exit 1\n")
    hook.chmod(0o755)
    with opened(url) as store:
        with pytest.raises(Denied, match="declined"):
            store["a"] = 2
        assert store["a"] == 1


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("git+https://", "a remote is"),
        ("git+https://host", "a remote is"),
        ("git+ssh:path", "a remote is"),
        ("git+file://", "a remote is"),
    ],
)
def test_urls_that_name_no_repository(url, words):
    with pytest.raises(DatastreamError, match=words):
        datastream.open(url)


def test_no_repository_there(url, server):
    with pytest.raises(DatastreamError, match="no repository there"):
        opened(url.replace("bare.git", "other.git"))
    with pytest.raises(DatastreamError, match="no repository there"):
        datastream.open("git+file:///no/such/place")


def test_no_such_branch(url, bare):
    bare.import_commit({"a": "1"})
    with pytest.raises(DatastreamError, match="no branch 'dev'"):
        opened(url, branch="dev")


# History rewritten, and trouble.


def test_force_push_delete_and_recreate(url, bare):
    bare.import_commit({"a": "1"})
    first = bare.head("main")
    bare.import_commit({"a": "2", "b": "1"})
    with opened(url) as store:
        recorder = Recorder(store)
        recorder.wait_state({"a": b"2", "b": b"1"})
        bare.git("update-ref", "refs/heads/main", first)
        recorder.wait_state({"a": b"1"})
        statuses, changed = _follow_status(store)
        bare.git("update-ref", "-d", "refs/heads/main")
        store.refresh()
        _await_state(statuses, changed, State.STALE)
        assert store["a"] == 1, "the last good state"
        with pytest.raises(SourceUnavailable):
            store["a"] = 3
        assert recorder.state == {"a": b"1"}
        bare.import_commit({"only": "here"})
        store.refresh()
        recorder.wait_state({"only": b"here"})
        _await_state(statuses, changed, State.READY)


def test_the_remotes_head_is_followed(url, bare):
    bare.import_commit({"a": "main"})
    bare.import_commit({"a": "live"}, branch="live")
    with opened(url) as store:
        recorder = Recorder(store)
        recorder.wait_state({"a": b"main"})
        bare.git("symbolic-ref", "HEAD", "refs/heads/live")
        recorder.wait_state({"a": b"live"})
        store["b"] = 1
    assert bare.files("live") == {b"a": b"live", b"b": b"1"}


def test_while_the_remote_is_away_the_last_state_is_read(url, bare, server):
    bare.import_commit({"a": "1"})
    with opened(url) as store:
        recorder = Recorder(store)
        recorder.wait_ready()
        statuses, changed = _follow_status(store)
        server.status = 503
        _await_state(statuses, changed, State.STALE)
        assert store["a"] == 1
        with pytest.raises(SourceUnavailable, match="503"):
            store["a"] = 2
        for _ in range(3):
            asked = len(server.requests)
            store.refresh()
            server.wait_for_requests(asked + 1)
        assert store.flush(TIMEOUT)
        assert not any(status.state is State.READY for status in statuses)
        bare.import_commit({"a": "meanwhile"})
        server.status = None
        store.refresh()
        recorder.wait_state({"a": b"meanwhile"})
        _await_state(statuses, changed, State.READY)
        assert recorder.error is None


@pytest.mark.parametrize("manner", ["http", "ssh", "path"])
def test_a_remote_that_is_moved_away_may_come_back(url, bare, ssh, manner):
    bare.import_commit({"a": "1"})
    urls = {"http": url, "ssh": f"git+ssh://host{bare.path}", "path": f"git+file://{bare.path}"}
    options = {
        "ssh": {"ssh_command": ssh, "password": ""},
        "path": {"username": "", "password": ""},
    }
    with opened(urls[manner], **options.get(manner, {})) as store:
        recorder = Recorder(store)
        recorder.wait_ready()
        statuses, changed = _follow_status(store)
        away = bare.path.with_name("away.git")
        bare.path.rename(away)
        store.refresh()
        _await_state(statuses, changed, State.STALE)
        assert store["a"] == 1
        with pytest.raises(SourceUnavailable, match="not there any more"):
            store["a"] = 2
        away.rename(bare.path)
        bare.import_commit({"a": "meanwhile"})
        store.refresh()
        recorder.wait_state({"a": b"meanwhile"})
        _await_state(statuses, changed, State.READY)
        assert State.FAILED not in {status.state for status in statuses}


def test_a_slow_remote_holds_up_no_reader(url, bare, server):
    bare.import_commit({"a": "1"})
    with opened(url, interval=3600) as store:
        recorder = Recorder(store)
        recorder.wait_ready()
        server.hold = threading.Event()
        asked = len(server.requests)
        store.refresh()
        server.wait_for_requests(asked + 1)
        bare.import_commit({"a": "2"})
        assert store["a"] == 1, "read while the remote lets us wait"
        server.hold.set()
        recorder.wait_state({"a": b"2"})


def test_a_remote_that_never_answers_is_given_up(url, bare, server):
    bare.import_commit({"a": "1"})
    server.hold = threading.Event()
    with pytest.raises(SourceUnavailable, match="cannot be reached"):
        opened(url, timeout=0.1)
    server.hold.set()


def test_refresh_asks_the_remote_now(url, bare):
    bare.import_commit({"a": "1"})
    with opened(url, interval=3600) as store:
        recorder = Recorder(store)
        recorder.wait_ready()
        bare.import_commit({"a": "2"})
        store.refresh()
        recorder.wait_state({"a": b"2"})


def test_nothing_is_fetched_where_nothing_moved(url, bare, server):
    bare.import_commit({"a": "1"})
    with opened(url, interval=0.01) as store:
        Recorder(store).wait_ready()
        asked = len(server.requests)
        server.wait_for_requests(asked + 10)
        later = server.requests[asked:]
    # ls-refs is two requests; a fetch would be more than that in a row.
    gets = [method for method, _ in later].count("GET")
    assert abs(2 * gets - len(later)) <= 1


def test_several_questions_at_once_are_no_warning(url, bare, server, caplog):
    """Such as a look while somebody puts, of which urllib3 complained where it kept one only."""
    bare.import_commit({"a": "1"})
    with opened(url, interval=60) as store:
        Recorder(store).wait_ready()
        server.hold = threading.Event()
        asked = len(server.requests)
        putting = threading.Thread(target=store.put, args=("b", 2))
        looking = threading.Thread(target=store.refresh)
        for thread in (putting, looking):
            thread.start()
        server.wait_for_requests(asked + 2)
        server.hold.set()
        for thread in (putting, looking):
            thread.join()
        assert dict(store) == {"a": 1, "b": 2}
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_an_unwatched_store_asks_when_it_is_read(url, bare, server, caplog):
    bare.import_commit({"a": "1"})
    with opened(url, interval=0.001) as store:
        assert store["a"] == 1
        bare.import_commit({"a": "2"})
        assert store["a"] == 2
        server.status = 500

        def warnings():
            return [record.levelname for record in caplog.records].count("WARNING")

        # A read asks no sooner than after the interval.
        eventually(lambda: store["a"] == 2 and warnings(), "it is said that the remote is away")
        assert store["a"] == 2
        assert warnings() == 1


def test_an_unwatched_store_asks_when_it_is_asked_what_changed(url, bare):
    bare.import_commit({"a": "1"})
    with opened(url, interval=0.001) as store:
        cursor = store.snapshot_batch().cursor
        bare.import_commit({"a": "2"})
        changed = store._core.read_changes(Selection(), cursor)
        assert [entry.value for entry in changed.entries] == [b"2"]
        bare.import_commit({"a": "3"})
        assert store["a"] == 3, "nobody waits for changes by that"


# Two who push.


def test_rejected_pushes_are_applied_on_the_new_head(url, bare, tmp_path):
    bare.import_commit({"a": "1"})
    with (
        opened(url, interval=3600, cache=str(tmp_path / "one")) as one,
        opened(url, interval=3600, cache=str(tmp_path / "two")) as two,
    ):
        revision = one.entry("a").revision
        two["b"] = "two"
        one["c"] = "one"
        assert one["b"] == "two"
        two["a"] = "moved"
        with pytest.raises(RevisionConflict, match="'a'"):
            one.put("a", "mine", expect=revision)
        bare.import_commit({"a": "1"})
        # What this clone knows is old: neither "it has that value" nor "it has another" counts.
        assert two.put("a", "moved").revision == bare.head("main:a")
        two.put("a", "x", expect=bare.head("main:a"))
    assert bare.files("main") == {b"a": b"x", b"b": b"two", b"c": b"one"}
    assert bare.git("rev-list", "--count", "--merges", "main") == "0"


# Clones.


def test_a_clone_is_used_again_also_when_the_remote_is_away(url, bare, server, tmp_path, caplog):
    bare.import_commit({"a": "1"})
    with opened(url):
        pass
    (clone,) = clones(tmp_path)
    before = clone.stat().st_ino
    server.status = 500
    with opened(url) as store:
        assert store["a"] == 1
        server.status = None
        Recorder(store).wait_ready()
    assert clone.stat().st_ino == before
    assert "as of before" in caplog.text


@pytest.mark.parametrize("damage", ["refs", "objects", "everything", "half"])
def test_a_broken_clone_is_made_again(url, bare, tmp_path, damage):
    bare.import_commit({"a": "1", "b/c": "2"})
    with opened(url):
        pass
    (clone,) = clones(tmp_path)
    if damage == "refs":
        shutil.rmtree(clone / "refs/datastream")
    elif damage == "objects":
        shutil.rmtree(clone / "objects/pack")
    elif damage == "everything":
        shutil.rmtree(clone)
        clone.write_text("a file now")
    else:
        for pack in (clone / "objects/pack").iterdir():
            pack.chmod(0o644)
            pack.write_bytes(pack.read_bytes()[:-30])
    with opened(url) as store:
        assert dict(store) == {"a": 1, "b/c": 2}
        store["a"] = 2
    assert bare.files("main")[b"a"] == b"2"


def test_a_clone_that_breaks_while_it_is_used_is_made_again(url, bare, tmp_path, caplog):
    bare.import_commit({"a": "1", "b/c": "2"})
    with opened(url):
        pass
    (clone,) = clones(tmp_path)
    with opened(url) as store:
        shutil.rmtree(clone / "objects/pack")
        (clone / "objects/pack").mkdir()
        recorder = Recorder(store)
        recorder.wait_state({"a": b"1", "b/c": b"2"})
        store["a"] = 2
        bare.import_commit({"b/c": "3"})
        recorder.wait_state({"a": b"2", "b/c": b"3"})
    assert "opening the clone anew" in caplog.text


def test_a_clone_that_gets_its_first_commit_just_now_is_left_in_place(
    url, bare, tmp_path, monkeypatch
):
    """A store that opens it sees objects, and no ref yet."""
    moved, inode = tracking._move, []

    def move(repo, before, commit):
        (clone,) = clones(tmp_path)
        inode.append(clone.stat().st_ino)
        monkeypatch.setattr(tracking, "_move", moved)
        with opened(url) as other:
            assert other["a"] == 1
        inode.append(clone.stat().st_ino)
        return moved(repo, before, commit)

    with opened(url) as store:
        monkeypatch.setattr(tracking, "_move", move)
        store["a"] = 1
        store["b"] = 2
        assert dict(store) == {"a": 1, "b": 2}
    assert inode[0] == inode[1]
    assert bare.files("main") == {b"a": b"1", b"b": b"2"}


def test_a_first_commit_is_read_while_the_clone_gets_it(url, bare, monkeypatch, caplog):
    """The clone's ref is written between two looks of a reader."""
    moved, tips = tracking._move, []

    def move(repo, before, commit):
        branch, find = source._remote_branch, source._remote_branch._refs.find

        def find_and_note():
            monkeypatch.setattr(branch._refs, "find", find)
            found = find()
            moved(repo, before, commit)
            branch._pushed = None
            return found

        tips.append(branch.tip())
        monkeypatch.setattr(branch._refs, "find", find_and_note)
        tips.append(branch.tip())
        return True

    source = RemoteGitSource(url.removeprefix("git+"), username=USER, password=PASSWORD)
    with Store(source) as store:
        monkeypatch.setattr(tracking, "_move", move)
        store["a"] = 1
    assert tips == [bare.head("main").encode()] * 2
    assert "anew" not in caplog.text


def test_a_clone_that_gets_its_ref_while_it_is_checked_is_sound(url, bare, tmp_path, monkeypatch):
    with opened(url):
        (clone,) = clones(tmp_path)
    bare.import_commit({"a": "1"})
    follow, inode, unborn = DiskRefsContainer.follow, clone.stat().st_ino, []

    def follow_then_made(refs, name):
        found = follow(refs, name)
        if name == TIP and found[1] is None:
            unborn.append(found)
        if len(unborn) == 2:
            monkeypatch.setattr(DiskRefsContainer, "follow", follow)
            update = ["fetch", "-q", bare.path, f"main:{TIP.decode()}"]
            subprocess.run(["git", *update], cwd=clone, check=True)
        return found

    monkeypatch.setattr(DiskRefsContainer, "follow", follow_then_made)
    with opened(url) as store:
        assert store["a"] == 1
    assert clone.stat().st_ino == inode


def test_a_commit_pushed_while_the_clone_is_made_anew_is_fetched(
    url, bare, tmp_path, monkeypatch, caplog
):
    bare.import_commit({"a": "1"})
    push = Remote.push

    def push_then_anew(remote, head, new):
        push(remote, head, new)
        (clone,) = clones(tmp_path)
        shutil.rmtree(clone)
        subprocess.run(["git", "clone", "-q", "--bare", bare.path, clone], check=True)
        before = ["update-ref", TIP.decode(), head.commit]
        subprocess.run(["git", *before], cwd=clone, check=True)
        for name in new.commit.id, new.commit.tree:
            (clone / "objects" / name[:2].decode() / name[2:].decode()).unlink()

    with opened(url) as store:
        monkeypatch.setattr(Remote, "push", push_then_anew)
        store["b"] = 2
        monkeypatch.setattr(Remote, "push", push)
        assert dict(store) == {"a": 1, "b": 2}
    assert "anew" not in caplog.text


def test_a_put_goes_on_when_another_process_makes_the_clone_anew(url, bare, tmp_path, monkeypatch):
    bare.import_commit({"a": "1"})
    add = Objects.add

    def pulled_away(objects, *arguments):
        monkeypatch.setattr(Objects, "add", add)
        (clone,) = clones(tmp_path)
        clone.rename(tmp_path / "away")
        try:
            return add(objects, *arguments)
        finally:
            shutil.copytree(tmp_path / "away", clone)

    with opened(url) as store:
        monkeypatch.setattr(Objects, "add", pulled_away)
        store["b"] = 2
        assert dict(store) == {"a": 1, "b": 2}
    assert bare.files("main") == {b"a": b"1", b"b": b"2"}


def test_a_clone_whose_ref_was_lost_is_not_empty_while_the_remote_is_away(
    url, bare, server, tmp_path
):
    bare.import_commit({"a": "1"})
    with opened(url):
        pass
    (clone,) = clones(tmp_path)
    shutil.rmtree(clone / "refs/datastream")
    server.close()
    with pytest.raises(SourceUnavailable):
        opened(url)
    assert clone.is_dir(), "the objects are not fetched again for that"


def test_the_lock_of_a_killed_process_is_removed_from_a_clone(url, bare, tmp_path):
    bare.import_commit({"a": "1"})
    with opened(url):
        pass
    (clone,) = clones(tmp_path)
    lock = clone / "refs/datastream/tip.lock"
    lock.touch()
    os.utime(lock, (0, 0))
    bare.import_commit({"a": "2"})
    with opened(url) as store:
        assert store["a"] == 2
        store["a"] = 3
        assert store["a"] == 3


def test_branches_and_urls_have_clones_of_their_own(url, bare, tmp_path):
    bare.import_commit({"a": "1"})
    bare.import_commit({"a": "2"}, branch="dev")
    with opened(url) as store, opened(url, branch="dev") as dev:
        assert (store["a"], dev["a"]) == (1, 2)
    assert len(clones(tmp_path)) == 2
    assert all(clone.stat().st_mode & 0o077 == 0 for clone in clones(tmp_path))


@pytest.mark.chaos
def test_many_open_one_remote_at_once(url, bare, tmp_path):
    bare.import_commit({"a": "1"})
    program = (
        "import datastream, sys\n"
        "with datastream.open(sys.argv[1], username=sys.argv[2], password=sys.argv[3]) as store:\n"
        "    print(store['a'])\n"
    )
    import subprocess

    children = [
        subprocess.Popen(
            [sys.executable, "-c", program, url, USER, PASSWORD],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ,
        )
        for _ in range(3)
    ]
    assert [child.communicate(timeout=90)[0] for child in children] == ["1\n"] * 3
    assert len(clones(tmp_path)) == 1


def test_the_past_of_a_remote(url, bare):
    bare.import_commit({"a": "1"})
    bare.git("tag", "-a", "-m", "annotated", "v1", "main")
    bare.import_commit({"a": "2"})
    bare.import_commit({"a": "side"}, branch="side")
    with opened(url, interval=3600) as store:
        assert [change.entry.value for change in store.history("a")] == [b"2", b"1"]
        for point, value in (("v1", 1), ("main~1", 1), ("HEAD", 2), ("side", "side")):
            with store.at(point) as past:
                assert past["a"] == value
        bare.git("tag", "later", "main~1")
        with store.at("later") as past:
            assert past["a"] == 1
        with pytest.raises(DatastreamError, match="no tag"):
            store.at("never")


def test_progress_of_a_clone(url, bare, tmp_path):
    bare.import_commit({f"f{n}": str(n) for n in range(20)})
    told = []
    with opened(url, progress=told.append):
        pass
    assert any("objects" in line for line in told)


def test_source_and_url_are_the_same(server, bare):
    bare.import_commit({"a": "1"})
    source = RemoteGitSource(f"{server.url}/bare.git", username=USER, password=PASSWORD)
    with Store(source) as store:
        assert store["a"] == 1


def test_the_lock_of_a_clone_is_free_though_a_child_has_it_open(tmp_path, monkeypatch):
    """One that was forked meanwhile keeps what it got of its parent for as long as it lives."""
    childs, real = [], _flock.lock

    def inherited(fd, **how):
        childs.append(os.dup(fd))
        return real(fd, **how)

    monkeypatch.setattr(_flock, "lock", inherited)
    with clone._held(tmp_path / "lock"):
        pass
    with (tmp_path / "lock").open("rb") as file:
        assert real(file.fileno(), wait=False)
    os.close(childs[0])
