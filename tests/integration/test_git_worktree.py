"""The work tree of a checked-out branch: brought along path by path, the user's left alone."""

import errno
import logging
import os
import shutil
import stat
import threading

import pytest

import datastream
from datastream.source import Write
from datastream.sources.git import GitSource, bringing, work_trees, worktree
from tests.repositories import Repository, git_environment  # noqa: F401  (a fixture)


@pytest.fixture
def repository(tmp_path):
    repository = Repository.new(tmp_path / "repository")
    repository.commit({"a": "1", "dir/b": "2", "dir/sub/c": "3", "run": "x"})
    return repository


@pytest.fixture
def store(repository):
    with datastream.open(f"git:{repository.path}") as store:
        yield store


def read(repository, path):
    return (repository.path / path).read_text()


def committed(repository):
    """The files of the user's next plain commit."""
    repository.git("commit", "-q", "--allow-empty", "-m", "by the user")
    return repository.files()


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_files_and_index_follow(store, repository, caplog):
    store.put_many({"a": "changed", "new/deep/file": "made"})
    store.delete("dir/sub/c")
    assert read(repository, "a") == "changed"
    assert read(repository, "new/deep/file") == "made"
    assert not (repository.path / "dir/sub").exists()
    assert read(repository, "dir/b") == "2"
    assert repository.git("status", "--porcelain") == ""
    assert warnings(caplog) == []
    (repository.path / "a").write_text("mine")
    repository.git("commit", "-qam", "by hand, on top")
    assert repository.files()[b"new/deep/file"] == b"made"
    assert store["a"] == "mine"


def test_the_executable_bit_survives(store, repository):
    (repository.path / "run").chmod(0o755)
    repository.commit({})
    store["run"] = "y"
    assert (repository.path / "run").stat().st_mode & stat.S_IXUSR
    assert not (repository.path / "a").stat().st_mode & stat.S_IXUSR
    assert repository.git("status", "--porcelain") == ""


def test_a_file_becomes_a_directory_and_back(store, repository):
    store.write(Write("a", None), Write("a/x", b"1"))
    assert read(repository, "a/x") == "1"
    store.write(Write("a/x", None), Write("a", b"2"))
    assert read(repository, "a") == "2"
    assert repository.git("status", "--porcelain") == ""


@pytest.mark.parametrize("staged", [False, True])
def test_a_changed_file_is_left_alone(store, repository, caplog, staged):
    (repository.path / "a").write_text("precious")
    if staged:
        repository.git("add", "a")
    store["a"] = "committed"
    assert store["a"] == "committed"
    assert read(repository, "a") == "precious"
    (warning,) = warnings(caplog)
    assert "'a' was changed there" in warning
    store["dir/b"] = "clean"
    assert read(repository, "dir/b") == "clean"


def test_each_path_follows_alone(store, repository, caplog):
    (repository.path / "a").write_text("mine")
    store.put_many({"a": "x", "dir/b": "y"})
    assert (read(repository, "a"), read(repository, "dir/b")) == ("mine", "y")
    (warning,) = warnings(caplog)
    assert "'a' was changed there" in warning
    assert "dir/b" not in warning
    assert committed(repository) == {b"a": b"x", b"dir/b": b"y", b"dir/sub/c": b"3", b"run": b"x"}
    repository.git("commit", "-qam", "my own")
    assert repository.files()[b"a"] == b"mine"
    assert repository.files()[b"dir/b"] == b"y"


def test_what_is_staged_is_the_users(store, repository, caplog):
    (repository.path / "a").write_text("mine")
    (repository.path / "new").write_text("mine, too")
    repository.git("add", "a", "new")
    repository.git("rm", "-q", "--cached", "run")
    store.put_many({"a": "x", "new": "x", "run": "x2", "dir/b": "y"})
    assert len(warnings(caplog)) == 1
    found = committed(repository)
    assert (found[b"a"], found[b"new"], found[b"dir/b"]) == (b"mine", b"mine, too", b"y")
    assert b"run" not in found


def test_a_promise_to_add_is_no_content(store, repository, caplog):
    (repository.path / "new").write_text("mine")
    repository.git("add", "--intent-to-add", "new")
    store["new"] = "by the store"
    assert read(repository, "new") == "mine"
    assert committed(repository)[b"new"] == b"by the store"


def test_what_stands_in_the_way_in_the_index_is_the_users(store, repository, caplog):
    (repository.path / "d").mkdir()
    (repository.path / "d/x").write_text("mine")
    (repository.path / "e").write_text("mine")
    repository.git("add", "d/x", "e")
    store.put_many({"d": 1, "e/x": 2})
    assert len(warnings(caplog)) == 1
    assert {b"d/x", b"e"} < committed(repository).keys()


def test_an_untracked_file_in_the_way_is_left_alone(store, repository, caplog):
    (repository.path / "mine").write_text("precious")
    store["mine"] = "committed"
    assert read(repository, "mine") == "precious"
    assert len(warnings(caplog)) == 1


def test_a_deleted_or_replaced_file_is_left_alone(store, repository, caplog):
    (repository.path / "a").unlink()
    (repository.path / "dir/b").unlink()
    (repository.path / "dir/b").symlink_to("/etc/hostname")
    store["a"] = "x"
    store["dir/b"] = "y"
    assert not (repository.path / "a").exists()
    assert (repository.path / "dir/b").is_symlink()
    assert len(warnings(caplog)) == 2


def test_a_file_that_cannot_be_read_leaves_no_older_index(store, repository, caplog, monkeypatch):
    (repository.path / "a").write_text("mine")

    def unreadable(place):
        raise PermissionError(13, "Permission denied", str(place))

    with monkeypatch.context() as patched:
        patched.setattr(type(repository.path), "read_bytes", unreadable)
        source = GitSource(repository.path)
        source.write([Write("a", b"x")])
        source.close()
    assert "'a' was changed there" in warnings(caplog)[0]
    assert committed(repository)[b"a"] == b"x"
    assert read(repository, "a") == "mine"


def test_nothing_is_written_through_a_symlink_in_the_work_tree(store, repository, tmp_path, caplog):
    outside = tmp_path / "outside"
    (repository.path / "dir").rename(outside)
    (repository.path / "dir").symlink_to(outside)
    store["dir/b"] = "escaped"
    store["dir/new"] = "escaped"
    assert (outside / "b").read_text() == "2"
    assert not (outside / "new").exists()
    assert len(warnings(caplog)) == 2


def test_conflicts_are_left_alone(store, repository, caplog):
    repository.git("checkout", "-q", "-b", "other")
    repository.commit({"a": "theirs"})
    repository.git("checkout", "-q", "main")
    repository.commit({"a": "ours"})
    repository.git("merge", "other", check=False)
    store.put_many({"a": "by the store", "dir/b": "y"})
    assert "<<<<" in read(repository, "a")
    assert "'a' was changed there" in warnings(caplog)[0]
    assert repository.git("diff", "--name-only", "--diff-filter=U") == "a"
    repository.git("checkout", "-q", "--theirs", "a")
    repository.git("add", "a")
    assert committed(repository)[b"dir/b"] == b"y"


@pytest.mark.parametrize("flag", ["skip-worktree", "assume-unchanged"])
def test_a_file_that_git_does_not_compare_is_left_alone(store, repository, caplog, flag):
    (repository.path / "a").write_text("mine, unseen")
    repository.git("update-index", f"--{flag}", "a")
    store["a"] = "x"
    assert read(repository, "a") == "mine, unseen"
    assert len(warnings(caplog)) == 1
    assert committed(repository)[b"a"] == b"x"
    repository.git("update-index", f"--no-{flag}", "a")


# Indexes of every kind.


@pytest.mark.parametrize(
    "how",
    [
        ("update-index", "--split-index"),
        ("update-index", "--index-version", "4"),
        ("update-index", "--index-version", "2"),
        ("config", "core.untrackedCache", "true"),
        ("config", "index.skipHash", "true"),
    ],
    ids=" ".join,
)
def test_every_kind_of_index_follows(store, repository, caplog, how):
    repository.git(*how)
    many = {f"long/{'x' * 200}/{n:03}": str(n) for n in range(300)} | {"z": "1", "zz": "1"}
    repository.commit(many)
    repository.commit({"z": "2", "long/new": "1", f"long/{'x' * 200}/007": None})
    store.delete("zz")
    store.put_many({"a": "x", f"long/{'x' * 200}/150": "changed", "new": 1})
    assert repository.git("status", "--porcelain") == ""
    expected = repository.files()
    assert committed(repository) == expected
    assert (len(expected), expected[b"a"], expected[b"z"]) == (306, b"x", b"2")
    assert warnings(caplog) == []


@pytest.mark.parametrize("index", ["--no-sparse-index", "--sparse-index"])
def test_a_sparse_checkout_follows(repository, caplog, index):
    repository.commit({"out/x": "1", "out/deep/y": "1", "out/deep/er/z": "1", "in/x": "1"})
    repository.git("sparse-checkout", "set", "--cone", index, "in")
    with datastream.open(f"git:{repository.path}") as store:
        store.put_many({"out/deep/y": 2, "out/new": 2, "in/x": 2, "in/new": 2, "a": 2})
        store.delete("out/deep/er/z")
        assert not (repository.path / "out").exists()
        assert read(repository, "in/new") == "2"
        assert repository.git("status", "--porcelain") == ""
        expected = repository.files()
        assert committed(repository) == expected
        assert (expected[b"out/deep/y"], expected[b"out/x"]) == (b"2", b"1")
        (repository.path / "in/x").write_text("mine")
        repository.git("commit", "-qam", "my own")
        assert dict(store)["out/new"] == 2
    assert warnings(caplog) == []
    repository.git("sparse-checkout", "disable")
    assert read(repository, "out/deep/y") == "2"


def test_a_sparse_checkout_by_patterns_follows(repository, caplog):
    repository.commit({"x.md": "1", "x.txt": "1"})
    repository.git("sparse-checkout", "set", "--no-cone", "*.md")
    with datastream.open(f"git:{repository.path}") as store:
        store.put_many({"x.txt": 2, "new.txt": 2, "new.md": 2})
    assert sorted(path.name for path in repository.path.iterdir()) == [".git", "new.md", "x.md"]
    assert repository.git("status", "--porcelain") == ""
    assert warnings(caplog) == []


def test_a_broken_index_is_said_and_not_written(store, repository, caplog):
    index = repository.path / ".git/index"
    sound = index.read_bytes()
    for broken in (b"", sound[:40], sound[:-30], b"x" * 200, sound[:-1] + b"?"):
        index.write_bytes(broken)
        store["a"] = f"with {len(broken)} bytes"
        assert index.read_bytes() == broken
    assert len(warnings(caplog)) == 5
    assert all("its index cannot be used" in warning for warning in warnings(caplog))
    assert not (repository.path / ".git/index.lock").exists()
    index.write_bytes(sound)
    store["dir/b"] = "y"
    assert repository.git("status", "--porcelain") == ""


def test_an_index_that_was_broken_follows_once_it_is_mended(store, repository, caplog):
    index = repository.path / ".git/index"
    sound = index.read_bytes()
    index.write_bytes(b"broken")
    store["a"] = "x"
    index.write_bytes(sound)
    await_followed()
    assert repository.git("status", "--porcelain") == ""
    assert committed(repository)[b"a"] == b"x"
    assert len(warnings(caplog)) == 1


def test_an_index_follows_once_there_is_room_on_the_disk(store, repository, caplog, monkeypatch):
    replace, full = worktree.WorkTree._replace, threading.Event()

    def without_room(tree, raw):
        if not full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(tree, raw)

    monkeypatch.setattr(worktree.WorkTree, "_replace", without_room)
    store["a"] = "x"
    assert "No space left" in warnings(caplog)[0]
    full.set()
    await_followed()
    assert repository.git("status", "--porcelain") == ""
    assert committed(repository)[b"a"] == b"x"
    assert len(warnings(caplog)) == 1


@pytest.fixture
def full(monkeypatch):
    """The disk has no room for files until this is set."""
    write, has_room = bringing._write, threading.Event()

    def write_if_there_is_room(*arguments):
        if not has_room.is_set():
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*arguments)

    monkeypatch.setattr(bringing, "_write", write_if_there_is_room)
    return has_room


def test_files_follow_once_there_is_room_on_the_disk(store, repository, caplog, full):
    store.put_many({"a": "x", "new": "y"})
    assert read(repository, "a") == "1"
    assert "no room on the disk" in warnings(caplog)[0]
    full.set()
    await_followed()
    assert (read(repository, "a"), read(repository, "new")) == ("x", "y")
    assert repository.git("status", "--porcelain") == ""
    assert len(warnings(caplog)) == 1


def test_what_git_commit_takes_back_while_the_disk_is_full_is_committed_once_more(
    store, repository, full, monkeypatch
):
    monkeypatch.setattr(worktree, "RETRY", 3600.0)
    store["a"] = "x"
    repository.git("commit", "-qam", "by the user")
    assert store["a"] == 1
    full.set()
    store["dir/b"] = "y"
    await_followed()
    assert store["a"] == read(repository, "a") == "x"
    assert repository.git("status", "--porcelain") == ""


def test_an_edit_that_git_has_not_noticed_stays_visible(store, repository):
    # Of the same size, in the second in which the index was written: git looks twice at those.
    place = repository.path / "a"
    past = 1_000_000_000
    place.write_text("aa")
    os.utime(place, (past, past))
    repository.commit({})
    place.write_text("bb")
    os.utime(place, (past, past))
    os.utime(repository.path / ".git/index", (past, past))
    store["dir/b"] = "y"
    assert repository.git("status", "--porcelain") == " M a"


# An index that another program holds.


@pytest.fixture
def held(repository, monkeypatch):
    """The lock of the index, held; nobody waits long for it."""
    monkeypatch.setattr(worktree, "LOCK_TIMEOUT", 0.01)
    lock = repository.path / ".git/index.lock"
    lock.touch()
    return lock


def await_followed():
    """Wait until the threads that bring work trees along have done so."""
    for thread in threading.enumerate():
        if thread.name.startswith("datastream index"):
            thread.join(30)
            assert not thread.is_alive()


def test_an_index_that_git_holds_is_brought_along_later(store, repository, caplog, held):
    store.put_many({"a": "x", "new": 1})
    store.delete("dir/sub/c")
    assert read(repository, "a") == "1"
    assert all("holds the index" in warning for warning in warnings(caplog))
    assert store["a"] == "x"
    held.unlink()
    await_followed()
    assert read(repository, "a") == "x"
    assert repository.git("status", "--porcelain") == ""
    assert committed(repository)[b"new"] == b"1"
    assert len(warnings(caplog)) == 2


def test_what_was_left_behind_is_not_taken_for_the_users(store, repository, caplog, held):
    for value in ("x", "y", "z"):
        store.put_many({"a": value, "new": value})
    store.delete("new")
    held.unlink()
    store["a"] = "last"
    await_followed()
    assert read(repository, "a") == "last"
    assert repository.git("status", "--porcelain") == ""
    assert not any("was changed there" in warning for warning in warnings(caplog))


def test_what_was_changed_meanwhile_is_the_users(store, repository, caplog, held):
    store.put_many({"a": "x", "dir/b": "y", "run": "z"})
    (repository.path / "a").write_text("mine")
    (repository.path / "dir/b").write_text("mine, too")
    # As a program that holds the lock replaces the index: with what it has staged.
    copy = repository.path / ".git/copy"
    copy.write_bytes((repository.path / ".git/index").read_bytes())
    os.environ["GIT_INDEX_FILE"] = str(copy)
    try:
        repository.git("add", "dir/b")
    finally:
        del os.environ["GIT_INDEX_FILE"]
    copy.rename(repository.path / ".git/index")
    held.unlink()
    await_followed()
    assert (read(repository, "a"), read(repository, "run")) == ("mine", "z")
    found = committed(repository)
    assert (found[b"a"], found[b"dir/b"], found[b"run"]) == (b"x", b"mine, too", b"z")


@pytest.fixture
def gate(monkeypatch):
    """Keeps the thread that brings indexes along from looking, until it is set."""
    gate, look = threading.Event(), work_trees.WorkTrees._look

    def gated(trees, objects):
        assert gate.wait(30)
        look(trees, objects)

    monkeypatch.setattr(work_trees.WorkTrees, "_look", gated)
    return gate


@pytest.mark.parametrize("by", ["the thread", "the next put"])
def test_what_git_commit_takes_back_is_committed_once_more(
    store, repository, caplog, held, gate, by
):
    store.put_many({"a": "x", "new": "y", "dir/b": "z"})
    store.delete("dir/sub/c")
    held.unlink()
    # Quicker than the thread, and with an edit of one's own.
    (repository.path / "run").write_text("mine")
    repository.git("commit", "-qm", "quick", "run", "a", "new", "dir/b", check=False)
    repository.git("commit", "-qm", "quick", "--allow-empty")
    assert repository.files()[b"a"] == b"1"
    if by == "the next put":
        store["dir/b"] = "put since"
    gate.set()
    await_followed()
    files = repository.files()
    assert (files[b"a"], files[b"new"]) == (b"x", b"y")
    assert files[b"dir/b"] == (b"put since" if by == "the next put" else b"z")
    assert b"dir/sub/c" not in files
    assert "took back" in warnings(caplog)[-1]
    assert committed(repository) == files
    assert repository.git("status", "--porcelain") == ""


def test_what_others_change_meanwhile_is_not_undone(store, repository, caplog, held, gate):
    store["a"] = "x"
    with datastream.open(f"git:{repository.path}") as other:
        other["a"] = b"1"
        gate.set()
        held.unlink()
        await_followed()
    assert store["a"] == 1
    assert not any("took back" in warning for warning in warnings(caplog))


def test_a_branch_that_is_switched_meanwhile_is_left_to_git(store, repository, held):
    repository.git("branch", "other")
    store["a"] = "x"
    repository.git("symbolic-ref", "HEAD", "refs/heads/other")
    held.unlink()
    await_followed()
    assert read(repository, "a") == "1"
    assert repository.git("status", "--porcelain") == ""


def test_a_stale_lock_is_waited_for_once(store, repository, held, monkeypatch):
    store["a"] = "x"
    # A second wait would outlast the test.
    monkeypatch.setattr(worktree, "LOCK_TIMEOUT", 3600)
    for number in range(10):
        store["a"] = number
    held.unlink()
    await_followed()
    assert read(repository, "a") == "9"


def test_the_status_tells_of_an_index_that_is_held(repository, held):
    source = GitSource(repository.path)
    source.write([Write("a", b"x")])
    assert "holds the index" in source.health.degraded
    held.unlink()
    await_followed()
    source.write([Write("a", b"y")])
    assert source.health.degraded == ""
    source.close()


def test_closing_tells_what_has_not_followed(repository, caplog, held):
    with datastream.open(f"git:{repository.path}") as store:
        store["a"] = "x"
    assert "'a' waited in vain" in warnings(caplog)[-1]
    held.unlink()


# Linked work trees.


@pytest.fixture(params=["checked out elsewhere", "bare", "pushed to", "linked"])
def linked(request, tmp_path):
    """A repository, a linked work tree where main is checked out, and the URL of a store."""
    repository = Repository.new(
        tmp_path / "repository", bare=request.param in ("bare", "pushed to")
    )
    if request.param in ("bare", "pushed to"):
        repository.import_commit({"a": "1", "dir/b": "2"})
    else:
        repository.commit({"a": "1", "dir/b": "2"})
        repository.git("checkout", "-q", "--detach")
    tree = Repository(tmp_path / "linked")
    repository.git("worktree", "add", "-q", str(tree.path), "main")
    url = {
        "checked out elsewhere": f"git:{repository.path}?branch=main",
        "bare": f"git:{repository.path}",
        "pushed to": f"git+file://{repository.path}",
        "linked": f"git:{tree.path}",
    }[request.param]
    return repository, tree, url


def test_a_linked_work_tree_follows(linked, caplog):
    repository, tree, url = linked
    (tree.path / "dir/b").write_text("mine")
    with datastream.open(url) as store:
        store.put_many({"a": "x", "new": "y"})
        store["dir/b"] = "z"
    assert (read(tree, "a"), read(tree, "new"), read(tree, "dir/b")) == ("x", "y", "mine")
    assert tree.git("status", "--porcelain") == " M dir/b"
    assert "'dir/b' was changed there" in warnings(caplog)[0]
    assert committed(tree) == {b"a": b"x", b"new": b"y", b"dir/b": b"z"}
    if repository.git("config", "core.bare") == "false":
        # The main one has a commit checked out, and no branch.
        assert repository.git("status", "--porcelain") == ""
        assert read(repository, "a") == "1"


@pytest.mark.parametrize("scheme", ["git", "git+file"])
def test_a_folder_that_holds_work_trees_only_is_left_alone(tmp_path, caplog, scheme):
    """``git clone --bare``, a file .git that names the clone, and ``git worktree add``."""
    bare = Repository.new(tmp_path / "project/.bare", bare=True)
    bare.import_commit({"a": "1"})
    folder = bare.path.parent
    (folder / ".git").write_text("gitdir: ./.bare\n")
    bare.git("worktree", "add", "-q", str(folder / "main"), "main")
    with datastream.open(f"{scheme}:{folder}") as store:
        store["a"] = "x"
        store["new"] = "y"
    assert sorted(path.name for path in folder.iterdir()) == [".bare", ".git", "main"]
    tree = Repository(folder / "main")
    assert (read(tree, "a"), read(tree, "new")) == ("x", "y")
    assert tree.git("status", "--porcelain") == ""
    assert warnings(caplog) == []


def test_a_linked_work_tree_whose_index_is_held_follows_later(linked, caplog, monkeypatch):
    _, tree, url = linked
    monkeypatch.setattr(worktree, "LOCK_TIMEOUT", 0.01)
    lock = tree.path / tree.git("rev-parse", "--git-path", "index.lock")
    with datastream.open(url) as store:
        lock.touch()
        store["a"] = "x"
        lock.unlink()
        await_followed()
    assert read(tree, "a") == "x"
    assert tree.git("status", "--porcelain") == ""


def test_a_work_tree_that_is_away_is_not_made_anew(linked, tmp_path, caplog):
    _, tree, url = linked
    if url == f"git:{tree.path}":
        pytest.skip("then the store has no repository")
    with datastream.open(url) as store:
        tree.path.rename(tmp_path / "away")
        store["new/file"] = "x"
        assert not tree.path.exists()
        (tmp_path / "away").rename(tree.path)
    assert committed(tree)[b"new/file"] == b"x"


def test_a_linked_work_tree_is_followed_to_where_it_is_moved(repository, tmp_path, caplog):
    repository.git("checkout", "-q", "--detach")
    tree = Repository(tmp_path / "linked")
    repository.git("worktree", "add", "-q", str(tree.path), "main")
    with datastream.open(f"git:{repository.path}", branch="main") as store:
        store["a"] = "x"
        repository.git("worktree", "move", str(tree.path), str(tmp_path / "moved"))
        tree = Repository(tmp_path / "moved")
        store["a"] = "y"
        assert read(tree, "a") == "y"
        repository.git("worktree", "remove", str(tree.path))
        store["a"] = "z"
    assert not tree.path.exists()
    assert warnings(caplog) == []


def test_a_repository_that_gets_a_work_tree_later_brings_it_along(tmp_path):
    repository = Repository.new(tmp_path / "repository")
    repository.commit({"a": "1"})
    repository.git("config", "core.bare", "true")
    with datastream.open(f"git:{repository.path}") as store:
        store["b"] = 1
        repository.git("config", "core.bare", "false")
        repository.git("reset", "-q", "--hard")
        store["b"] = 2
        assert read(repository, "b") == "2"
        assert committed(repository) == {b"a": b"1", b"b": b"2"}


def test_a_main_work_tree_that_is_configured_elsewhere_is_followed_there(repository, tmp_path):
    tree = tmp_path / "elsewhere"
    tree.mkdir()
    with datastream.open(f"git:{repository.path}") as store:
        store["a"] = "x"
        repository.git("config", "core.worktree", str(tree))
        repository.git("reset", "-q", "--hard")
        store["a"] = "y"
        assert (tree / "a").read_text() == "y"
        assert read(repository, "a") == "x"
        assert repository.git("status", "--porcelain") == ""
        repository.git("commit", "-q", "--allow-empty", "-am", "by the user")
        assert store["a"] == "y"


def test_what_waits_for_an_index_follows_to_where_the_work_tree_is_moved(
    repository, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(worktree, "LOCK_TIMEOUT", 0.01)
    repository.git("checkout", "-q", "--detach")
    tree = Repository(tmp_path / "linked")
    repository.git("worktree", "add", "-q", str(tree.path), "main")
    lock = repository.path / tree.git("rev-parse", "--git-path", "index.lock")
    with datastream.open(f"git:{repository.path}", branch="main") as store:
        lock.touch()
        store["a"] = "x"
        repository.git("worktree", "move", str(tree.path), str(tmp_path / "moved"))
        tree = Repository(tmp_path / "moved")
        store["new"] = "y"
        lock.unlink()
        await_followed()
        assert (read(tree, "a"), read(tree, "new")) == ("x", "y")
        assert tree.git("status", "--porcelain") == ""


def test_a_work_tree_that_is_removed_while_its_index_is_held_waits_no_more(
    repository, tmp_path, monkeypatch
):
    monkeypatch.setattr(worktree, "LOCK_TIMEOUT", 0.01)
    repository.git("checkout", "-q", "--detach")
    names = ("one", "other")
    for name in names:
        repository.git("worktree", "add", "-q", "-f", str(tmp_path / name), "main")
    trees = [Repository(tmp_path / name) for name in names]
    locks = [tree.path / tree.git("rev-parse", "--git-path", "index.lock") for tree in trees]
    with datastream.open(f"git:{repository.path}", branch="main") as store:
        for lock in locks:
            lock.touch()
        store["a"] = "x"
        shutil.rmtree(trees[0].path)
        shutil.rmtree(locks[0].parent)
        locks[1].unlink()
        await_followed()
        assert read(trees[1], "a") == "x"
        store["a"] = "y"
        assert store.status.current.degraded == ""


def test_the_main_work_tree_follows_a_store_in_a_linked_one(repository, tmp_path):
    tree = tmp_path / "linked"
    repository.git("worktree", "add", "-q", "-b", "other", str(tree))
    with datastream.open(f"git:{tree}", branch="main") as store:
        store["a"] = "x"
    assert read(repository, "a") == "x"
    assert repository.git("status", "--porcelain") == ""
    assert (tree / "a").read_text() == "1"


def test_a_detached_head_is_moved_in_its_work_tree_only(repository, tmp_path):
    repository.git("checkout", "-q", "--detach")
    tree = Repository(tmp_path / "linked")
    repository.git("worktree", "add", "-q", "--detach", str(tree.path))
    with datastream.open(f"git:{repository.path}") as store:
        store["a"] = "x"
    assert (read(repository, "a"), read(tree, "a")) == ("x", "1")
    assert repository.git("status", "--porcelain") == tree.git("status", "--porcelain") == ""


@pytest.fixture
def stale(repository):
    """Has a git command write the index that it read before, as it does: it takes no lock first."""
    index = repository.path / ".git" / "index"
    raw = index.read_bytes()

    def write():
        other = index.with_name("index.written")
        other.write_bytes(raw)
        other.replace(index)

    return write


def test_an_index_that_a_git_command_sets_back_follows_again(store, repository, stale):
    store.put_many({"a": "x", "new": 1})
    stale()
    await_followed()
    assert repository.git("status", "--porcelain") == ""
    assert committed(repository)[b"a"] == b"x"


def test_an_index_that_was_set_back_follows_with_the_next_put(store, repository, stale):
    store["a"] = "x"
    stale()
    store["a"] = "y"
    assert repository.git("status", "--porcelain") == ""
    assert committed(repository)[b"a"] == b"y"


def test_what_git_commits_from_an_index_that_was_set_back_is_committed_once_more(
    store, repository, stale
):
    store["a"] = "x"
    stale()
    repository.git("commit", "-q", "--allow-empty", "-m", "by git")
    await_followed()
    assert (store["a"], repository.files()[b"a"]) == ("x", b"x")
    assert repository.git("status", "--porcelain") == ""


def test_who_takes_a_put_back_at_once_has_done_so(store, repository, caplog):
    """File and index are as they were before: no git command does that by itself."""
    store["a"] = "x"
    repository.git("checkout", "HEAD~1", "--", "a")
    before = read(repository, "a")
    await_followed()
    assert read(repository, "a") == before != "x"
    assert committed(repository)[b"a"] == before.encode()
    # The index was not even held, which would make git commands fail.
    assert warnings(caplog) == []


def test_who_resets_the_branch_at_once_keeps_the_file(store, repository, caplog):
    """The index is as it was before, and the file as it was put, but the branch is not."""
    before = store["a"]
    store["a"] = "x"
    repository.git("reset", "-q", "HEAD~1")
    await_followed()
    assert (read(repository, "a"), store["a"]) == ("x", before)
    assert repository.git("status", "--porcelain") == " M a"
    assert warnings(caplog) == []


def test_a_commit_beside_puts_never_takes_one_back(store, repository):
    over, odd = threading.Event(), []

    def commit():
        while not over.is_set():
            repository.git("commit", "-q", "--allow-empty", "-m", "by git", check=False)

    thread = threading.Thread(target=commit)
    thread.start()
    for number in range(60):
        store["a"] = number
        if store["a"] != number:
            odd.append(number)
    over.set()
    thread.join()
    await_followed()
    assert (odd, store["a"]) == ([], 59)
    assert committed(repository)[b"a"] == b"59"


def test_gits_cached_trees_are_not_kept(store, repository):
    # A commit writes into the index which trees its entries make; they are others now.
    repository.git("status")
    store["dir/b"] = "changed"
    repository.git("commit", "-q", "--allow-empty", "-m", "from the index as it is")
    assert repository.files()[b"dir/b"] == b"changed"
    assert repository.git("write-tree") == repository.head("HEAD^{tree}")


def test_the_reflog_says_who_moved_the_branch(store, repository):
    store["a"] = "x"
    for ref in ("main", "HEAD"):
        assert repository.git("reflog", "show", ref).splitlines()[0].endswith("datastream: Put a")


def test_content_is_compared_where_times_tell_nothing(store, repository):
    (repository.path / "a").touch()
    store["a"] = "x"
    assert read(repository, "a") == "x"
    assert repository.git("status", "--porcelain") == ""
