"""A local repository: what is read, what may be written, and that nothing else changes."""

import gc
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime

import psutil
import pytest

import datastream
from datastream import (
    DatastreamError,
    InvalidKey,
    InvalidValue,
    KeyNotFound,
    RevisionConflict,
    SourceUnavailable,
    Store,
    Unsupported,
)
from datastream.sources.git import GitSource
from datastream.testing import Recorder
from tests.repositories import Repository, git_environment  # noqa: F401  (a fixture)


@pytest.fixture
def bare(tmp_path):
    return Repository.new(tmp_path / "bare", bare=True)


@pytest.fixture
def repository(tmp_path):
    return Repository.new(tmp_path / "checked-out")


def opened(repository, **options):
    return datastream.open(f"git:{repository.path}", **options)


# Reading.


def test_files_are_keys_and_their_blobs_are_revisions(repository):
    head = repository.commit({"a": "1", "b/c.json": "{}", "b/d.txt": "text", "e.bin": b"\0"})
    with opened(repository) as store:
        assert {k: e.value_type for k, e in store.snapshot().items()} == {
            "a": "int",
            "b/c.json": "application/json",
            "b/d.txt": "text/plain",
            "e.bin": "application/octet-stream",
        }
        assert store["b/c.json"] == {}
        assert store.entry("a").revision == repository.head("HEAD:a")
        assert store.snapshot_batch().cursor == head
        assert store.entry("a").updated_at == datetime.fromisoformat(
            repository.git("log", "-1", "--format=%cI")
        )
        assert [c.value_type for c in store.capabilities() if c.key == "a"] == ["int"]


def test_the_work_tree_is_not_read(repository):
    repository.commit({"a": "committed"})
    (repository.path / "a").write_text("only in the work tree")
    (repository.path / "b").write_text("not even added")
    with opened(repository) as store:
        assert dict(store) == {"a": "committed"}


def test_a_prefix_is_no_part_of_the_keys(repository):
    repository.commit({"app/live/a": "1", "app/live/x/y": "2", "app/other": "3"})
    with opened(repository, prefix="/app/live/") as store:
        assert dict(store) == {"a": 1, "x/y": 2}
        store["b"] = "new"
        assert dict(store.at("HEAD~1")) == {"a": 1, "x/y": 2}
    assert repository.files()[b"app/live/b"] == b"new"
    assert repository.files()[b"app/other"] == b"3"


@pytest.mark.parametrize("prefix", ["../up", "a/../b", ".git", "a//b"])
def test_a_prefix_that_no_path_can_have_is_refused(bare, prefix):
    with pytest.raises(InvalidKey):
        opened(bare, prefix=prefix)


def test_selected_files_only_are_read(repository):
    repository.commit({f"d{n}/{m}.txt": f"{n} {m}" for n in range(3) for m in range(3)})
    with opened(repository) as store:
        assert set(store.snapshot("d1/")) == {"d1/0.txt", "d1/1.txt", "d1/2.txt"}
        assert set(store.snapshot("d1/0.txt", "d1/", "d2/2.txt", "d9/x", match="d0/*1*")) == {
            *("d1/0.txt", "d1/1.txt", "d1/2.txt", "d2/2.txt", "d0/1.txt"),
        }
        assert store.snapshot("d1") == {}
        assert store.snapshot("d1/0.txt/below") == {}


def test_symlinks_submodules_and_lfs_pointers(repository):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 9\n"
    repository.commit({"a": "here", "big.iso": pointer, "run": "#!/bin/sh\n"})
    (repository.path / "run").chmod(0o755)
    (repository.path / "link").symlink_to("a")
    head = repository.commit({})
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{head},module")
    repository.git("commit", "-qm", "a submodule")
    with opened(repository) as store:
        assert store.entry("link").value == b"a"
        assert store.entry("big.iso").value == pointer.encode()
        assert "module" not in store
        for key, words in (
            ("link", "symbolic link"),
            ("link/x", "below a symbolic link"),
            ("module", "submodule"),
            ("module/x", "below a submodule"),
            ("a/x", "below a file"),
        ):
            with pytest.raises(InvalidKey, match=words):
                store.put(key, "through")
        before = repository.head("HEAD^{tree}")
        store["b"] = "beside"
        store["run"] = "#!/bin/sh\nexit\n"
        del store["b"]
        store["run"] = "#!/bin/sh\n"
        assert repository.head("HEAD^{tree}") == before
        del store["link"]
        store["link"] = "a file now"
    listing = repository.git("ls-tree", "HEAD")
    assert "100755 blob" in listing
    assert "160000 commit" in listing


def test_paths_that_are_no_utf8_are_readable_and_writable(bare):
    bare.import_commit({b"caf\xe9": "latin", rb"plain\x41": "escape", "ünï": "text"})
    with opened(bare) as store:
        assert {key: store[key] for key in store} == {
            r"caf\xe9": "latin",
            r"plain\x5cx41": "escape",
            "ünï": "text",
        }
        store[r"caf\xe9"] = "changed"
        assert store.entry(r"plain\x5cx41").value == b"escape"
        assert r"plain\x41" not in store
        with pytest.raises(InvalidKey, match="escape that is not needed"):
            store[r"\x41"] = 1
        del store[r"plain\x5cx41"]
    assert bare.files() == {b"caf\xe9": b"changed", "ünï".encode(): b"text"}


# Keys.

REFUSED = (
    *("../up", "/absolute", "a/../b", "a/./b", ".", "..", "a//b"),
    *(".git/config", "a/.git/hooks", ".GIT/x", ".gIt", "git~1", "GIT~1/x"),
    *(".git ", ".git.", ".git . /x", ".git::$INDEX_ALLOCATION/x", "a\\.git\\x", ".git\\x"),
    *(".g\u200cit/x", ".gi\ufefft", "\u200d.git"),
    *("nul\0", "slash/", "", "k" * 256, "/".join(["k" * 200] * 30)),
)


@pytest.mark.parametrize("key", REFUSED, ids=lambda key: ascii(key)[:24])
def test_keys_that_git_refuses_are_refused(repository, key):
    head = repository.commit({"a": "1"})
    with opened(repository) as store:
        for action in (
            lambda: store.put(key, "x"),
            lambda: store.put_many({"fine": 1, key: 2}),
            lambda: store.put(key, "x", expect=""),
        ):
            with pytest.raises(InvalidKey):
                action()
    assert repository.head() == head
    assert repository.git("status", "--porcelain") == ""


def test_keys_that_only_look_like_those_are_fine(bare):
    keys = [".gitignore", ".github/x", "git~2", "agit~1", ".gitx", "con", "a\\b", ".git2/x"]
    with opened(bare) as store:
        store.put_many(dict.fromkeys(keys, "fine"))
        assert set(store) == set(keys)


@pytest.mark.parametrize(
    ("there", "new"),
    [("Readme", "README"), ("Dir/a", "dir/b"), ("x/Y/z", "x/y"), ("stra\u00dfe", "STRASSE"),
     ("caf\u00e9", "cafe\u0301")],
)  # fmt: skip
def test_case_collisions_are_refused(bare, there, new):
    with opened(bare) as store:
        store[there] = 1
        with pytest.raises(InvalidKey, match="only in case"):
            store[new] = 2
        with pytest.raises(InvalidKey, match="only in case"):
            store.put_many({"other": 1, new: 2})
        assert list(store) == [there]
        store.write(datastream.source.Write(there, None), datastream.source.Write(new, b"2"))
        assert list(store) == [new]


def test_two_new_keys_may_not_collide_either(bare):
    with opened(bare) as store:
        with pytest.raises(InvalidKey, match="only in case"):
            store.put_many({"a": 1, "A": 2})
        assert dict(store) == {}


def test_a_collision_that_is_there_already_harms_nothing(bare):
    bare.import_commit({"a": "1", "A": "2", "b": "3"})
    with opened(bare) as store:
        store["a"] = 10
        store["c"] = 4
        assert dict(store) == {"a": 10, "A": 2, "b": 3, "c": 4}


def test_a_key_cannot_be_a_directory_too(bare):
    with opened(bare) as store:
        store.put_many({"a/b": 1, "c": 2})
        with pytest.raises(InvalidKey, match="is a directory"):
            store["a"] = 3
        with pytest.raises(InvalidKey, match="below a file"):
            store["c/d"] = 4
        with pytest.raises(InvalidKey):
            store.put_many({"x": 1, "x/y": 2})
        Write = datastream.source.Write
        store.write(Write("a/b", None), Write("a", b"3"), Write("c", None), Write("c/d", b"4"))
        assert dict(store) == {"a": 3, "c/d": 4}


# Writing.


def test_one_write_is_one_commit(repository):
    with opened(repository, author="Ann", email="ann@example.org") as store:
        recorder = Recorder(store)
        store.put_many({"a": 1, "b/c": 2, "b/d": 3, "e": 4})
        store["a"] = 10
        store.delete("b/c")
        recorder.wait(lambda r: len(r.batches) == 4)
        assert [len(batch.entries) for batch in recorder.batches] == [0, 4, 1, 1]
        assert recorder.batches[-1].cursor == repository.head()
    log = repository.git("log", "--format=%an <%ae> %cn <%ce> %s")
    assert log.splitlines() == [
        f"Ann <ann@example.org> Ann <ann@example.org> {subject}"
        for subject in ("Delete b/c", "Put a", "Put 4 keys")
    ]


def test_message_author_and_time_can_be_given(repository, monkeypatch):
    monkeypatch.delenv("GIT_AUTHOR_NAME")
    repository.git("config", "user.name", "Configured")
    then = datetime(2020, 2, 3, 4, 5, 6, tzinfo=UTC)
    with opened(repository, message="rates: {keys}\n\nBy hand.", email="x@example.org") as store:
        stored = store.put("fx/USD", 1.1, updated_at=then)
        assert stored.updated_at == then == store.entry("fx/USD").updated_at
        with pytest.raises(InvalidValue, match="1970"):
            store.put("a", 1, updated_at=datetime(1969, 1, 1, tzinfo=UTC))
    assert repository.git("log", "-1", "--format=%an <%ae>|%cI|%B") == (
        "Configured <x@example.org>|2020-02-03T04:05:06+00:00|rates: fx/USD\n\nBy hand.\n"
    )


@pytest.mark.parametrize(
    "options", [{"author": "a\nb"}, {"email": "<x>"}, {"author": " "}, {"message": "nul\0"}]
)
def test_what_no_commit_can_hold_is_refused_at_open(bare, options):
    with pytest.raises(DatastreamError):
        opened(bare, **options)


def test_a_write_that_changes_nothing_makes_no_commit(repository):
    head = repository.commit({"a": "1"})
    with opened(repository) as store:
        assert store.put("a", 1).revision == store.put("a", b"1").revision
        store.delete("b", missing_ok=True)
        with pytest.raises(KeyNotFound):
            store.delete("b")
    assert repository.head() == head


def test_only_trees_on_the_way_are_rewritten(bare):
    bare.import_commit({f"d{n}/{m}": f"{n} {m}" for n in range(20) for m in range(20)})
    with opened(bare) as store:
        before = bare.git("count-objects")
        store["d3/new"] = "x"
        after = bare.git("count-objects")
    # One blob, two trees, one commit.
    assert int(after.split()[0]) - int(before.split()[0]) == 4


def test_everything_removed_leaves_an_empty_tree(bare):
    with opened(bare) as store:
        store["a/b"] = 1
        store.clear()
        assert dict(store) == {}
        store["c"] = 2
        assert dict(store) == {"c": 2}


def test_writers_here_and_there_lose_nothing(bare):
    with opened(bare) as one, opened(bare) as two:
        failures = []

        def write(store, name):
            try:
                for number in range(40):
                    store.put(f"{name}/{number}", number)
            except Exception as error:
                failures.append(error)

        threads = [
            threading.Thread(target=write, args=(store, name))
            for store, name in ((one, "one"), (two, "two"))
        ]
        for thread in threads:
            thread.start()
        for number in range(10):
            bare.import_commit({f"git/{number}": str(number)}, branch="side")
        for thread in threads:
            thread.join()
        assert not failures
        assert len(one) == 80
    assert bare.git("rev-list", "--count", "main") == "80"
    assert bare.git("rev-list", "--count", "--merges", "main") == "0"


def test_git_commits_between_our_writes(repository):
    with opened(repository) as store:
        for number in range(5):
            store[f"ours/{number}"] = number
            repository.commit({f"theirs/{number}": str(number)})
        assert len(store) == 10
    assert repository.git("status", "--porcelain") == ""


def test_compare_and_set_sees_what_git_did(repository):
    repository.commit({"a": "1"})
    with opened(repository) as store:
        revision = store.entry("a").revision
        repository.commit({"a": "2"})
        with pytest.raises(RevisionConflict):
            store.put("a", 3, expect=revision)
        store.put("a", 3, expect=repository.head("HEAD:a"))


def test_a_lock_left_behind_is_named(bare, monkeypatch):
    monkeypatch.setattr("datastream.sources.git.branch_source.LOCK_PATIENCE", 0.2)
    with opened(bare) as store:
        store["a"] = 1
        lock = bare.path / "refs/heads/main.lock"
        lock.touch()
        with pytest.raises(SourceUnavailable, match=r"main\.lock.*remove that file"):
            store["a"] = 2
        lock.unlink()
        store["a"] = 3


KILLED = """
import os, signal, sys
import datastream
from datastream.sources.git.ref_lock import RefLock

RefLock.write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
datastream.open(sys.argv[1])["a"] = 2
"""


def test_the_lock_of_a_killed_process_of_ours_is_removed(bare):
    with opened(bare) as store:
        store["a"] = 1
        killed = subprocess.run([sys.executable, "-c", KILLED, f"git:{bare.path}"], check=False)
        assert killed.returncode == -signal.SIGKILL
        assert (bare.path / "refs/heads/main.lock").exists()
        store["a"] = 3
        assert store["a"] == 3
    assert not [*bare.path.rglob("*lock*")]
    bare.fsck()


def test_a_lock_that_is_old_holds_up_no_write_anew(bare, monkeypatch):
    monkeypatch.setattr("datastream.sources.git.branch_source.LOCK_PATIENCE", 3600)
    with opened(bare) as store:
        store["a"] = 1
        lock = bare.path / "refs/heads/main.lock"
        lock.touch()
        os.utime(lock, (0, 0))
        with pytest.raises(SourceUnavailable, match=r"main\.lock.*remove that file"):
            store["a"] = 2


def test_a_lock_that_goes_away_is_waited_for(bare):
    with opened(bare) as store:
        store["a"] = 1
        lock = bare.path / "refs/heads/main.lock"
        lock.touch()
        timer = threading.Timer(0.1, lock.unlink)
        timer.start()
        store["a"] = 2
        timer.join()
        assert store["a"] == 2


def test_objects_half_written_by_a_killed_process_are_in_nobodys_way(bare):
    with opened(bare) as store:
        store["a"] = "one"
        name = store.entry("a").revision
        place = bare.path / "objects" / name[:2] / name[2:]
        place.unlink()
        place.with_name(f"{place.name}.lock").touch()
        store["b"] = "one"
        place.with_name(f"{place.name}.lock").unlink()
        assert store["a"] == "one"


def test_shared_objects_are_not_writable(bare):
    with opened(bare) as store:
        name = store.put("a", "one").revision
    mode = (bare.path / "objects" / name[:2] / name[2:]).stat().st_mode
    assert stat.S_IMODE(mode) & 0o222 == 0


# What is opened.


def test_no_repository_is_explained(tmp_path):
    with pytest.raises(DatastreamError, match="git init"):
        datastream.open(f"git:{tmp_path}")
    with pytest.raises(DatastreamError, match="git init"):
        datastream.open(f"git:{tmp_path}/nowhere")
    with pytest.raises(DatastreamError, match="names no folder"):
        datastream.open("git:")
    with pytest.raises(DatastreamError, match="names no folder"):
        datastream.open("git://host/path")


def test_a_branch_that_is_not_there_is_explained(repository):
    repository.commit({"a": "1"})
    repository.git("branch", "dev")
    with pytest.raises(DatastreamError, match="no branch 'devel'; it has dev, main"):
        opened(repository, branch="devel")
    with pytest.raises(DatastreamError, match="no name"):
        opened(repository, branch="..")


def test_a_first_branch_is_made_by_the_first_write(bare):
    with opened(bare, branch="config/live") as store:
        assert dict(store) == {}
        store["a"] = 1
    assert bare.git("branch", "--list", "--format=%(refname)") == "refs/heads/config/live"


def test_opened_by_its_git_folder_the_work_tree_is_still_brought_along(repository):
    repository.commit({"a": "1"})
    with datastream.open(f"git:{repository.path}/.git") as store:
        store["a"] = 2
    assert (repository.path / "a").read_text() == "2"
    assert repository.git("status", "--porcelain") == ""


def test_a_linked_work_tree_and_a_submodule_style_gitfile(repository):
    repository.commit({"a": "1"})
    linked = repository.path.with_name("linked")
    repository.git("worktree", "add", "-q", str(linked), "-b", "side")
    with datastream.open(f"git:{linked}") as store:
        recorder = Recorder(store)
        store["a"] = 2
        repository.git("branch", "-f", "elsewhere", "main")
        Repository(linked).commit({"b": "3"})
        recorder.wait_state({"a": b"2", "b": b"3"})
    assert (linked / "a").read_text() == "2"
    assert (repository.path / "a").read_text() == "1"
    assert Repository(linked).git("status", "--porcelain") == ""


def test_sha256_repositories_are_refused_clearly(tmp_path):
    subprocess.run(["git", "init", "-q", "--object-format=sha256", tmp_path / "new"], check=True)
    with pytest.raises(Unsupported, match="SHA-1"):
        datastream.open(f"git:{tmp_path}/new")


def test_reftable_repositories_are_refused_clearly(bare):
    bare.git("config", "core.repositoryformatversion", "1")
    bare.git("config", "extensions.refstorage", "reftable")
    with pytest.raises(Unsupported, match="refs in files"):
        opened(bare)
    # git itself is too old to say whether this one is sound.
    Repository.made.remove(bare)


def test_a_missing_object_is_left_out_and_no_delete(bare):
    bare.import_commit({"a": "1", "b": "2"})
    with opened(bare) as store:
        recorder = Recorder(store)
        recorder.wait_ready()
        broken = bare.head("main:b")
        objects = bare.path / "objects" / broken[:2] / broken[2:]
        bare.git("unpack-objects", "-q", data=b"", check=False)
        for pack in (bare.path / "objects/pack").glob("*"):
            data = pack.read_bytes() if pack.suffix == ".pack" else None
            pack.unlink()
            if data:
                bare.git("unpack-objects", "-q", data=data)
        kept = objects.read_bytes()
        objects.unlink()
        with datastream.open(f"git:{bare.path}") as fresh:
            assert set(fresh.snapshot("a")) == {"a"}
            assert set(fresh.snapshot()) == {"a"}
            assert "git fsck" in fresh.status.current.degraded
        objects.write_bytes(kept)
        assert recorder.live == []


def test_the_repository_is_closed(bare):
    def use():
        with opened(bare) as store:
            store["a"] = "x"
            Recorder(store).wait_ready()
            list(store.history("a"))
            store.at("main").close()
        gc.collect()

    use()
    use()
    before = psutil.Process().num_fds()
    for _ in range(5):
        use()
    # The notifications' own thread closes what it has, a moment later.
    deadline = time.monotonic() + 20
    while psutil.Process().num_fds() > before + 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_constructor_and_url_are_the_same(bare):
    with Store(GitSource(bare.path, prefix="x", branch="main")) as store:
        store["a"] = 1
    with datastream.open(f"git:{bare.path}?prefix=x&branch=main&interval=0.5") as store:
        assert dict(store) == {"a": 1}
    with pytest.raises(DatastreamError, match="no option 'cache'"):
        datastream.open(f"git:{bare.path}?cache=x")
