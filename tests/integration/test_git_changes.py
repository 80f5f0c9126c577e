"""What any git program does to a local repository, as watchers see it."""

import os
import shutil
import threading

import pytest

import datastream
from datastream import InvalidKey, Selection, SourceUnavailable, State
from datastream.sources._common.wake import WakeEvent
from datastream.sources.git import GitSource
from datastream.sources.git.branch import RefWatch
from datastream.sources.git.objects import Objects
from datastream.sources.git.refs import Place
from datastream.testing import TIMEOUT, Recorder
from datastream.testing._conformance import _await_state, _follow_status
from datastream.testing._tools import eventually
from tests.integration._core_sources import Call
from tests.repositories import Repository, git_environment  # noqa: F401  (a fixture)


@pytest.fixture
def repository(tmp_path):
    return Repository.new(tmp_path / "repository")


@pytest.fixture
def store(repository):
    repository.commit({"a": "1", "fx/USD": "1.1", "fx/GBP": "0.8"})
    # Nothing is looked for in vain: what is seen was told.
    with datastream.open(f"git:{repository.path}", interval=3600) as store:
        yield store


def watching(store, *keys, **options):
    recorder = Recorder(store, *keys, **options)
    recorder.wait_ready()
    return recorder


def test_one_commit_is_one_batch(store, repository):
    recorder, fx = watching(store), watching(store, "fx/")
    head = repository.commit({"fx/USD": "1.2", "fx/GBP": "0.9", "a": None, "new": "x"})
    recorder.wait_state({"fx/USD": b"1.2", "fx/GBP": b"0.9", "new": b"x"})
    fx.wait_state({"fx/USD": b"1.2", "fx/GBP": b"0.9"})
    assert len(recorder.batches) == 2
    assert recorder.cursor == head
    assert recorder.live[0].operation == "DELETE", "deletes come first"
    assert len(fx.batches) == 2


def test_several_commits_between_two_looks_are_their_net_effect(store, repository):
    recorder = watching(store)
    cursor = recorder.cursor
    recorder.dispose()
    repository.commit({"a": "2", "passing": "x"})
    repository.commit({"a": "3", "passing": None})
    head = repository.commit({"fx/USD": None})
    resumed = watching(store, since=cursor)
    (batch,) = resumed.batches
    assert {e.key: e.value for e in batch.entries} == {"a": b"3", "fx/USD": b""}
    assert (batch.cursor, batch.reset) == (head, False)


def test_a_commit_elsewhere_in_the_tree_is_nobodys_batch(repository):
    repository.commit({"app/a": "1", "other": "1"})
    with datastream.open(f"git:{repository.path}", prefix="app", interval=3600) as store:
        recorder = watching(store)
        repository.commit({"other": "2"})
        repository.commit({"app/a": "2"})
        recorder.wait_state({"a": b"2"})
        assert len(recorder.live) == 1


def test_the_executable_bit_is_no_news(store, repository):
    recorder = watching(store)
    (repository.path / "a").chmod(0o755)
    repository.commit({})
    repository.commit({"b": "1"})
    recorder.wait(lambda r: "b" in r.state)
    assert [entry.key for entry in recorder.live] == ["b"]


def test_packed_refs_and_gc(store, repository):
    recorder = watching(store)
    for number in range(3):
        repository.commit({"a": f"round {number}"})
        recorder.wait(lambda r, n=number: r.state["a"] == f"round {n}".encode())
        repository.git("pack-refs", "--all", "--prune")
        repository.git("gc", "-q", "--prune=now")
        store.put("b", number)
        repository.git("gc", "-q", "--prune=now")
        recorder.wait(lambda r, n=number: r.state["b"] == str(n).encode())
        assert store["a"] == f"round {number}"
    assert all(entry.key in ("a", "b") for entry in recorder.live)


def test_amend_reset_and_rebase(store, repository):
    recorder = watching(store)
    first = repository.head()
    repository.commit({"a": "2", "b": "1"})
    recorder.wait(lambda r: "b" in r.state)
    (repository.path / "a").write_text("amended")
    repository.git("commit", "-qa", "--amend", "-m", "other")
    recorder.wait(lambda r: r.state["a"] == b"amended")
    repository.git("reset", "-q", "--hard", first)
    recorder.wait_state({"a": b"1", "fx/USD": b"1.1", "fx/GBP": b"0.8"})


def test_history_without_a_common_ancestor(store, repository):
    recorder = watching(store)
    repository.git("checkout", "-q", "--orphan", "new")
    repository.git("rm", "-rqf", ".")
    repository.commit({"fx/USD": "1.1", "only": "here"})
    repository.git("branch", "-qf", "main", "new")
    repository.git("checkout", "-q", "main")
    recorder.wait_state({"fx/USD": b"1.1", "only": b"here"})
    changed = {entry.key for entry in recorder.live}
    assert "fx/USD" not in {entry.key for entry in recorder.batches[-1].entries} or (
        len(recorder.batches) > 2
    ), changed


def test_head_is_followed_to_another_branch(store, repository):
    recorder = watching(store)
    repository.git("checkout", "-q", "-b", "feature/x")
    repository.commit({"a": "feature"})
    recorder.wait(lambda r: r.state["a"] == b"feature")
    repository.git("checkout", "-q", "main")
    recorder.wait(lambda r: r.state["a"] == b"1")
    repository.git("checkout", "-q", "--detach", "feature/x")
    recorder.wait(lambda r: r.state["a"] == b"feature")
    store["a"] = "on no branch"
    assert repository.git("status", "--porcelain") == ""
    repository.git("checkout", "-q", "main")
    recorder.wait(lambda r: r.state["a"] == b"1")


def test_a_named_branch_is_followed_whatever_is_checked_out(store, repository):
    repository.git("branch", "live/eu")
    with datastream.open(f"git:{repository.path}", branch="live/eu", interval=3600) as live:
        recorder = watching(live)
        repository.commit({"a": "not there"})
        repository.git("checkout", "-q", "live/eu")
        repository.commit({"a": "there"})
        recorder.wait(lambda r: r.state["a"] == b"there")
        assert len(recorder.live) == 1
        repository.git("checkout", "-q", "main")
        live["a"] = "by us"
        assert (repository.path / "a").read_text() == "not there"
        assert repository.git("status", "--porcelain") == ""


def test_a_deleted_branch_is_stale_and_no_delete(repository):
    repository.commit({"a": "1"})
    repository.git("branch", "live")
    with datastream.open(f"git:{repository.path}", branch="live", interval=3600) as store:
        recorder = watching(store)
        statuses, changed = _follow_status(store)
        repository.git("branch", "-D", "live")
        _await_state(statuses, changed, State.STALE)
        with pytest.raises(SourceUnavailable, match="live was deleted"):
            store["a"]
        with pytest.raises(SourceUnavailable, match="live was deleted"):
            store["a"] = 2
        assert recorder.live == []
        repository.commit({"a": "2", "b": "1"})
        repository.git("branch", "live")
        store.refresh()
        recorder.wait_state({"a": b"2", "b": b"1"})
        _await_state(statuses, changed, State.READY)


def test_an_unborn_branch_is_an_empty_state(tmp_path):
    repository = Repository.new(tmp_path / "unborn")
    with datastream.open(f"git:{repository.path}", interval=3600) as store:
        recorder = watching(store)
        assert recorder.batches[0].entries == ()
        cursor = recorder.cursor
        repository.commit({"a": "1"})
        recorder.wait_state({"a": b"1"})
        resumed = watching(store, since=cursor)
        assert resumed.state == {"a": b"1"}
        assert not resumed.batches[0].reset


def test_an_orphan_branch_checked_out_is_empty(store, repository):
    recorder = watching(store)
    repository.git("checkout", "-q", "--orphan", "fresh")
    recorder.wait_state({})
    repository.git("rm", "-rqf", ".")
    store["b"] = 1
    assert repository.git("rev-list", "--count", "fresh") == "1"
    assert repository.files("fresh") == {b"b": b"1"}


def test_a_shallow_clone(store, repository, tmp_path):
    for number in range(5):
        repository.commit({"a": str(number)})
    shallow = Repository(tmp_path / "shallow")
    repository.git("clone", "-q", "--depth", "2", f"file://{repository.path}", str(shallow.path))
    with datastream.open(f"git:{shallow.path}", interval=3600) as clone:
        recorder = watching(clone)
        assert [change.entry.value for change in clone.history("a")] == [b"4", b"3"]
        clone["a"] = "ours"
        shallow.git("fetch", "-q", "--unshallow")
        assert len(list(clone.history("a"))) == 7
        recorder.wait(lambda r: r.state["a"] == b"ours")
    shallow.fsck()


def test_a_cursor_whose_commit_is_gone_resets(store, repository):
    lost = repository.commit({"a": "lost"})
    repository.git("reset", "-q", "--hard", "HEAD~1")
    repository.git("reflog", "expire", "--expire=now", "--all")
    repository.git("gc", "-q", "--prune=now")
    resumed = watching(store, since=lost)
    assert resumed.batches[0].reset
    assert set(resumed.state) == {"a", "fx/USD", "fx/GBP"}


def test_a_cursor_of_rewritten_history_does_not(store, repository):
    before = repository.commit({"a": "2", "b": "1"})
    repository.git("reset", "-q", "--hard", "HEAD~1")
    resumed = watching(store, since=before)
    assert not resumed.batches[0].reset
    assert {e.key: e.operation.value for e in resumed.batches[0].entries} == {
        "a": "PUT",
        "b": "DELETE",
    }


def test_a_repository_that_vanishes_is_trouble(tmp_path):
    repository = Repository.new(tmp_path / "here")
    repository.commit({"a": "1"})
    with datastream.open(f"git:{repository.path}", interval=0.05) as store:
        recorder = watching(store)
        statuses, changed = _follow_status(store)
        away = tmp_path / "away"
        repository.path.rename(away)
        _await_state(statuses, changed, State.STALE)
        assert recorder.live == []
        shutil.move(away, repository.path)
        repository.commit({"a": "2"})
        store.refresh()
        recorder.wait_state({"a": b"2"})


@pytest.mark.parametrize("branch", ["main", "deep/er/branch"])
def test_only_the_ref_moves_in_a_bare_repository(tmp_path, branch):
    bare = Repository.new(tmp_path / "bare", bare=True)
    with datastream.open(f"git:{bare.path}", branch=branch, interval=3600) as store:
        recorder = watching(store)
        for number in range(3):
            bare.import_commit({"a": str(number)}, branch=branch)
            recorder.wait_state({"a": str(number).encode()})
        first = bare.head(f"{branch}~2")
        bare.git("pack-refs", "--all", "--prune")
        bare.git("update-ref", f"refs/heads/{branch}", first)
        recorder.wait_state({"a": b"0"})


def test_a_folder_that_comes_while_it_is_watched_for_is_watched_too(tmp_path, monkeypatch):
    """Else the ref that is made in it is noticed with the next look only."""
    heads, ref = tmp_path / "refs" / "heads", b"refs/heads/deep/er/branch"
    heads.mkdir(parents=True)
    finds, wake = [], WakeEvent()

    def find():
        finds.append(None)
        return Place(ref, None)

    watch = RefWatch(tmp_path, tmp_path, find)
    watching = watch._watching

    def made_just_before(folders):
        (heads / "deep" / "er").mkdir(parents=True, exist_ok=True)
        return watching(folders)

    monkeypatch.setattr(watch, "_watching", made_just_before)
    waiting = Call(watch.wait, None, wake, 3600.0)
    try:
        eventually(lambda: len(finds) == 2, "it is armed, and has looked")
        (tmp_path / os.fsdecode(ref)).write_text("made")
        waiting.ends("the wait for a ref")
    finally:
        wake.set()
        watch.close()


def test_what_a_snapshot_showed_still_ends_the_wait_of_watchers(repository):
    repository.commit({"a": "1"})
    source, everything = GitSource(repository.path, interval=3600), Selection.of()
    cursor = source.read(everything, None).position
    source.read(everything, cursor)
    repository.commit({"a": "2"})
    assert source.read(everything, None).entries[0].value == b"2"
    thread = threading.Thread(target=lambda: source.wait(None), daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    assert source.read(everything, cursor).entries[0].value == b"2"
    source.close()


def test_files_that_nobody_watches_are_not_read(store, repository, monkeypatch):
    blobs = []
    original = Objects.content
    monkeypatch.setattr(
        Objects, "content", lambda self, blob: blobs.append(blob) or original(self, blob)
    )
    recorder = watching(store, "a")
    repository.commit({f"many/{n}": str(n) for n in range(50)} | {"a": "2"})
    recorder.wait_state({"a": b"2"})
    assert len(blobs) == 2


@pytest.mark.parametrize("interval", [0.02])
def test_where_nothing_tells_the_branch_is_looked_at(repository, monkeypatch, interval):
    def fail(*_, **__):
        raise OSError("no more watches")

    repository.commit({"a": "1"})
    monkeypatch.setattr("datastream.sources.git.branch.FileNotifications", fail)
    with datastream.open(f"git:{repository.path}", interval=interval) as store:
        recorder = watching(store)
        repository.commit({"a": "2"})
        recorder.wait_state({"a": b"2"})


@pytest.mark.parametrize("bare", [True, False])
def test_a_repository_that_goes_away_and_comes_back(tmp_path, bare):
    repository = Repository.new(tmp_path / "here", bare=bare)
    with datastream.open(f"git:{repository.path}", interval=0.05) as store:
        store.put_many({"a": 1, "b/c": 2})
        recorder = Recorder(store)
        recorder.wait_state({"a": b"1", "b/c": b"2"})
        states = []
        store.status.subscribe(lambda status: states.append(status.state))
        repository.path.rename(tmp_path / "away")
        store.refresh()
        eventually(lambda: State.STALE in states, "STALE while it is away")
        with pytest.raises(SourceUnavailable, match="not there"):
            store.snapshot()
        (tmp_path / "away").rename(repository.path)
        store.refresh()
        store.put("a", 3)
        recorder.wait_state({"a": b"3", "b/c": b"2"})
        assert [entry.key for entry in recorder.live] == ["a"]


def test_paths_deeper_than_pythons_stack(tmp_path):
    repository = Repository.new(tmp_path / "deep", bare=True)
    with datastream.open(f"git:{repository.path}", interval=0.05) as store:
        store["ok"] = 1
        recorder = Recorder(store, "ok")
        recorder.wait_state({"ok": b"1"})
        for depth in (500, 1500):
            with pytest.raises(InvalidKey, match="folders"):
                store.put("y/" * depth + "z", 1)
        repository.import_commit({"d/" * 700 + "z": "deep"})
        store["ok"] = 2
        recorder.wait_state({"ok": b"2"})
        assert len(store) == 2


def test_a_repository_whose_git_folder_is_put_elsewhere_is_followed(tmp_path):
    """As git submodule absorbgitdirs and git init --separate-git-dir do."""
    work = Repository.new(tmp_path / "work")
    work.commit({"a": "1"})
    with datastream.open(f"git:{work.path}", interval=0.02) as store:
        recorder = Recorder(store)
        recorder.wait_state({"a": b"1"})
        work.git("init", "-q", "--separate-git-dir", str(tmp_path / "elsewhere"), ".")
        work.commit({"a": "2"})
        recorder.wait_state({"a": b"2"})
        store["b"] = 3
        recorder.wait_state({"a": b"2", "b": b"3"})
        assert work.git("status", "--porcelain") == ""
