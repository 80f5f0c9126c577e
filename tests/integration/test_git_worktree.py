"""The work tree of a checked-out branch: brought along when clean, left alone when not."""

import logging
import stat

import pytest

import datastream
from datastream.sources.git import worktree as _git_worktree
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
    Write = datastream.source.Write
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


def test_of_one_commit_all_or_nothing_follows(store, repository, caplog):
    (repository.path / "a").write_text("precious")
    store.put_many({"a": "x", "dir/b": "y"})
    assert (read(repository, "a"), read(repository, "dir/b")) == ("precious", "2")
    assert len(warnings(caplog)) == 1


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


def test_nothing_is_written_through_a_symlink_in_the_work_tree(store, repository, tmp_path, caplog):
    outside = tmp_path / "outside"
    (repository.path / "dir").rename(outside)
    (repository.path / "dir").symlink_to(outside)
    store["dir/b"] = "escaped"
    store["dir/new"] = "escaped"
    assert (outside / "b").read_text() == "2"
    assert not (outside / "new").exists()
    assert len(warnings(caplog)) == 2


def test_conflicts_and_flags_are_left_alone(store, repository, caplog):
    repository.git("update-index", "--skip-worktree", "a")
    repository.git("update-index", "--assume-unchanged", "dir/b")
    store["a"] = "x"
    store["dir/b"] = "y"
    assert (read(repository, "a"), read(repository, "dir/b")) == ("1", "2")
    assert len(warnings(caplog)) == 2
    repository.git("update-index", "--no-skip-worktree", "a")


def test_an_index_that_git_holds_is_left_alone(store, repository, caplog, monkeypatch):
    monkeypatch.setattr(_git_worktree, "LOCK_TIMEOUT", 0.05)
    lock = repository.path / ".git/index.lock"
    lock.touch()
    store["a"] = "x"
    lock.unlink()
    assert read(repository, "a") == "1"
    assert "holds the index" in warnings(caplog)[0]
    assert store["a"] == "x"


def test_a_split_index_is_left_alone(store, repository, caplog):
    repository.git("update-index", "--split-index")
    store["a"] = "x"
    assert "not supported" in warnings(caplog)[0]
    assert read(repository, "a") == "1"
    repository.git("update-index", "--no-split-index")


def test_gits_cached_trees_are_not_kept(store, repository):
    # A commit writes into the index which trees its entries make; they are others now.
    repository.git("status")
    store["dir/b"] = "changed"
    repository.git("commit", "-q", "--allow-empty", "-m", "from the index as it is")
    assert repository.files()[b"dir/b"] == b"changed"
    assert repository.git("write-tree") == repository.head("HEAD^{tree}")


def test_the_reflog_says_who_moved_the_branch(store, repository):
    store["a"] = "x"
    assert repository.git("reflog", "show", "main").splitlines()[0].endswith("datastream: Put a")


def test_content_is_compared_where_times_tell_nothing(store, repository):
    (repository.path / "a").touch()
    store["a"] = "x"
    assert read(repository, "a") == "x"
    assert repository.git("status", "--porcelain") == ""
