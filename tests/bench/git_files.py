"""``git:`` over 50,000 files, beside dulwich doing the least that has to be done."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from dulwich.diff_tree import tree_changes
from dulwich.object_store import iter_tree_contents
from dulwich.objects import Blob, Commit, ObjectID, Tree
from dulwich.refs import Ref
from dulwich.repo import Repo

import datastream
from datastream import Store
from tests.bench.child import Child
from tests.bench.figures import Effort, Figure, Rounds, noted, take_turns
from tests.bench.watching import idle_cpu, latencies

FILES, FOLDERS = 50_000, 500
PUTS = 50
OTHERS = 10
"""Keys that are written while another is watched."""
COMMITS = 200
PAUSE = 0.03
"""Seconds between commits."""
IDLE = 5.0
WANTED = {50: 25.0, 99: 50.0}
"""Milliseconds by percentile."""
MAIN = Ref(b"refs/heads/main")
WHO = b"Bench <bench@example.org>"


def git_files(effort: Effort) -> Iterator[Figure]:
    """A bare repository, packed as `git gc` leaves it."""
    if shutil.which("git") is None:
        return
    with repository(FILES) as path, datastream.open(f"git:{path}") as store:
        with closing(Repo(str(path))) as repo:
            less = effort._replace(rounds=max(2, effort.rounds // 3))
            yield _list(less, store, repo)
            yield _read(less, store, repo, path)
            yield _one_commit(effort, store, repo)
            yield _put(effort, store, repo)
            yield _memory(repo, path)


def git_watch(effort: Effort) -> Iterator[Figure]:
    """Commits of another process in a local repository, until a watcher was called."""
    if shutil.which("git") is None:
        return
    with repository(100) as path, Child("watcher", f"git:{path}", "key", "key") as watcher:
        watcher.ask("forget")
        with Child("git_writer", str(path)) as writer:
            newest, took = writer.ask("write", effort.of(COMMITS), PAUSE)
        seen = watcher.ask("until", newest)
        idle = idle_cpu("the same git watcher when idle", watcher, IDLE * effort.share)
    name = "other process's commit seen on git:"
    yield from latencies(name, seen, took, WANTED, "the commit itself")
    yield idle


@contextmanager
def repository(files: int) -> Iterator[Path]:
    """A bare repository of `files` files in folders, all in one pack."""
    with TemporaryDirectory(prefix="datastream-bench-") as folder:
        path = Path(folder, "bench.git")
        run = {"check": True, "env": os.environ | {"GIT_CONFIG_GLOBAL": os.devnull}}
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", path], **run)  # type: ignore[call-overload]
        script = [b"commit refs/heads/main\ncommitter " + WHO + b" now\ndata 5\nfirst\n"]
        for number in range(files):
            value = b'{"n":%d,"text":"%064d"}' % (number, number)
            script.append(b"M 644 inline %s\ndata %d\n%s\n" % (_path(number), len(value), value))
        command = ["git", "-C", path, "fast-import", "--quiet", "--date-format=now"]
        subprocess.run(command, input=b"".join(script), **run)  # type: ignore[call-overload]
        yield path


def _path(number: int) -> bytes:
    return b"d%03d/f%05d.json" % (number % FOLDERS, number)


def _tree(repo: Repo) -> ObjectID:
    commit = repo[repo.refs[MAIN]]
    assert isinstance(commit, Commit)
    return commit.tree


def _forget_trees(store: Store) -> None:
    with store._source._handles.lend() as files:  # type: ignore[attr-defined]
        files.objects._trees.clear()


def _timed(rounds: Rounds, name: str, wanted: float, of: str) -> Figure:
    return rounds.figure(name, "ms", f"≤ {wanted} × {of}", lambda ratio: ratio <= wanted)


def _list(effort: Effort, store: Store, repo: Repo) -> Figure:
    def ours() -> float:
        # Trees that were read before are remembered; here they are read anew.
        _forget_trees(store)
        start = time.perf_counter()
        assert len(list(store)) >= FILES
        return (time.perf_counter() - start) * 1000

    def floor() -> float:
        start = time.perf_counter()
        assert len(list(iter_tree_contents(repo.object_store, _tree(repo)))) >= FILES
        return (time.perf_counter() - start) * 1000

    return _timed(take_turns(effort, ours, floor), "list of 50,000 keys on git:", 2, "tree walk")


def _read(effort: Effort, store: Store, repo: Repo, path: Path) -> Figure:
    entries = list(iter_tree_contents(repo.object_store, _tree(repo)))
    blobs = [entry.sha for entry in entries if entry.sha is not None]

    def ours() -> float:
        start = time.perf_counter()
        assert len(store.snapshot()) >= FILES
        return (time.perf_counter() - start) * 1000

    def floor() -> float:
        start = time.perf_counter()
        contents = []
        for blob in blobs:
            found = repo.object_store[blob]
            assert isinstance(found, Blob)
            contents.append(found.data)
        return (time.perf_counter() - start) * 1000

    figure = _timed(
        take_turns(effort, ours, floor), "50,000 values read on git:", 1.5, "dulwich's blobs"
    )
    start = time.perf_counter()
    subprocess.run(
        ["git", "-C", path, "cat-file", "--batch"],
        input=b"".join(blob + b"\n" for blob in blobs),
        stdout=subprocess.DEVNULL,
        check=True,
    )
    took = (time.perf_counter() - start) * 1000
    return noted(figure, f"git cat-file --batch took {took:,.0f} ms for the same blobs")


def _one_commit(effort: Effort, store: Store, repo: Repo) -> Figure:
    """Seen and read: from the old cursor to what differs now."""
    cursor = store.snapshot_batch("none").cursor
    old = _tree(repo)
    store["d250/f00250.json"] = {"n": time.time_ns()}
    selection = datastream.Selection.of()
    source = store._source

    def ours() -> float:
        _forget_trees(store)
        start = time.perf_counter()
        assert len(source.read(selection, cursor).entries) == 1
        return (time.perf_counter() - start) * 1000

    def floor() -> float:
        start = time.perf_counter()
        (change,) = tree_changes(repo.object_store, old, _tree(repo))
        assert change.new is not None
        assert change.new.sha is not None
        repo.object_store.get_raw(change.new.sha)
        return (time.perf_counter() - start) * 1000

    name = "one-file commit among 50,000 seen and read"
    return _timed(take_turns(effort, ours, floor), name, 2, "tree_changes + blob")


def _put(effort: Effort, store: Store, repo: Repo) -> Figure:
    numbers = count(1)
    puts = effort.of(PUTS)

    def ours() -> float:
        start = time.perf_counter()
        for _ in range(puts):
            number = next(numbers)
            store.put(_path(number * 7 % FILES).decode(), b'{"put":%d}' % number)
        return (time.perf_counter() - start) * 1000 / puts

    def floor() -> float:
        start = time.perf_counter()
        for _ in range(puts):
            number = next(numbers)
            _bare_put(repo, _path(number * 7 % FILES), b'{"put":%d}' % number)
        return (time.perf_counter() - start) * 1000 / puts

    return _timed(take_turns(effort, ours, floor), "put among 50,000 files on git:", 2, "dulwich")


def _bare_put(repo: Repo, path: bytes, value: bytes) -> None:
    store, head = repo.object_store, repo.refs[MAIN]
    parent = repo[head]
    assert isinstance(parent, Commit)
    root = store[parent.tree]
    assert isinstance(root, Tree)
    folder, name = path.split(b"/")
    below = store[root[folder][1]]
    assert isinstance(below, Tree)
    blob = Blob.from_string(value)
    below[name] = (0o100644, blob.id)
    root[folder] = (0o040000, below.id)
    commit = Commit()
    commit.tree, commit.parents, commit.message = root.id, [head], b"put\n"
    commit.author = commit.committer = WHO
    commit.author_time = commit.commit_time = int(time.time())
    commit.author_timezone = commit.commit_timezone = 0
    for item in (blob, below, root, commit):
        store.add_object(item)
    assert repo.refs.set_if_equals(MAIN, head, commit.id)


def _memory(repo: Repo, path: Path) -> Figure:
    """Resident memory of a watcher after others wrote little, and after they wrote much."""
    with Child("git_memory", str(path)) as child:

        def after(size: int) -> float:
            for number in range(1, OTHERS + 1):
                _bare_put(repo, _path(number), b"%d " % size + b"x" * (size // OTHERS))
            _bare_put(repo, _path(0), b"%d" % size)
            return float(child.ask("memory_after", str(size))) / 1e6

        # Trees are remembered, up to a limit, whatever the size of the values in them.
        first, small, large = after(100), after(1_000), after(20_000_000)
    ours, floor = large - small, small - first
    return Figure(
        name="memory of a watcher of one key, 20 MB written to others",
        unit="MB more",
        ours=ours,
        floor=floor,
        wanted="≤ 1 MB above 1 kB written",
        ok=ours <= floor + 1,
    )
