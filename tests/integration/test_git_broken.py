"""Repositories that are broken, cut or away: trouble, and never an empty store."""

import os
import resource
import shutil
import threading
import time
from types import SimpleNamespace

import psutil
import pytest

from datastream.errors import DatastreamError, SourceUnavailable, Unreadable, Unsupported
from datastream.selection import Selection
from datastream.source import Write
from datastream.sources.git import GitSource, RemoteGitSource, refs
from datastream.sources.git.refs import HEAD, Refs
from tests.repositories import Repository, clones, git_environment  # noqa: F401  (a fixture)

ALL = Selection.of()


@pytest.fixture
def repository(tmp_path):
    repository = Repository.new(tmp_path / "work")
    repository.commit({"a": "1"})
    repository.commit({"b/c": "2"})
    return repository


def trouble(source, action):
    """What the store makes of what `action` raises; its result if it raises nothing."""
    try:
        return action()
    except Exception as error:
        return source.translate(error, None)


def empty(place):
    place.write_bytes(b"")


def cut(place):
    place.write_bytes(place.read_bytes()[:-9])


def zeros(place):
    place.write_bytes(bytes(place.stat().st_size))


def gone(place):
    place.unlink()


def pipe(place):
    place.unlink()
    os.mkfifo(place)


HOW = (empty, cut, zeros, gone, pipe)
BROKEN = [(name, how) for name in ("refs/heads/main", "HEAD", "packed-refs") for how in HOW]


@pytest.mark.parametrize(("name", "how"), BROKEN, ids=lambda part: getattr(part, "__name__", part))
@pytest.mark.parametrize("branch", ["", "main"])
def test_a_broken_ref_is_trouble_and_no_empty_store(repository, name, how, branch):
    if branch and name == "HEAD":
        pytest.skip("HEAD does not matter to who follows a branch")
    before = repository.head()
    if name == "packed-refs":
        repository.git("pack-refs", "--all", "--prune")
    live, fresh = (GitSource(repository.path, branch=branch) for _ in range(2))
    position = live.read(ALL, None).position
    place = repository.path / ".git" / name
    kept = place.read_bytes()
    how(place)
    for source in (live, fresh):
        for action in (
            lambda source=source: source.read(ALL, None),
            lambda source=source: source.read(ALL, before),
            lambda source=source: source.get("a"),
            lambda source=source: source.get("nothing"),
            lambda source=source: source.capabilities(),
            lambda source=source: source.write([Write("a", b"3")]),
            lambda source=source: list(source.history("a")),
            lambda source=source: source.at("HEAD"),
            lambda source=source: source.wait(0.01),
        ):
            assert isinstance(trouble(source, action), SourceUnavailable)
    place.unlink(missing_ok=True)
    place.write_bytes(kept)
    for source in (live, fresh):
        assert source.read(ALL, position).entries == []
        assert source.get("a").value == b"1"
        source.close()
    assert repository.head() == before


def test_a_bare_repository_whose_ref_is_lost_is_trouble_to_those_who_resume(tmp_path):
    bare = Repository.new(tmp_path / "bare", bare=True)
    position = bare.import_commit({"a": "1"})
    (bare.path / "refs/heads/main").unlink()
    source = GitSource(bare.path)
    with pytest.raises(SourceUnavailable, match="deleted"):
        source.read(ALL, position)
    bare.git("update-ref", "refs/heads/main", position)
    assert source.read(ALL, position).entries == []
    bare.git("update-ref", "-d", "refs/heads/main")
    with pytest.raises(SourceUnavailable, match="deleted"):
        source.read(ALL, None)
    source.close()


def test_an_orphan_branch_is_empty_to_those_who_resume_too(repository):
    position = repository.head()
    repository.git("checkout", "-q", "--orphan", "fresh")
    source = GitSource(repository.path)
    reading = source.read(ALL, position)
    assert (reading.position, reading.complete) == ("unborn", False)
    assert {entry.key: entry.value for entry in reading.entries} == {"a": b"", "b/c": b""}
    source.close()


@pytest.mark.parametrize("head", [b"ref:refs/heads/main", b"ref:\trefs/heads/main \n"])
def test_spellings_that_git_reads_are_read(repository, head):
    (repository.path / ".git/HEAD").write_bytes(head)
    assert repository.git("symbolic-ref", "HEAD") == "refs/heads/main"
    tip = repository.head()
    (repository.path / ".git/refs/heads/main").write_bytes(tip.encode())
    source = GitSource(repository.path)
    assert source.read(ALL, None).position == tip
    source.write([Write("a", b"3")])
    assert source.get("a").value == b"3"
    source.close()
    assert repository.files()[b"a"] == b"3"


def test_ids_in_capitals_and_with_more_behind_are_read(repository):
    tip = repository.head()
    ref = repository.path / ".git/refs/heads/main"
    source = GitSource(repository.path)
    for spelled in (tip.upper() + "\n", f"{tip}\r\n", f"{tip} and more\n", f"{tip}\t\n\n"):
        ref.write_text(spelled)
        assert repository.head() == tip
        assert source.read(ALL, tip).position == tip
    ref.unlink()
    packed = repository.path / ".git/packed-refs"
    for spelled in (f"{tip.upper()} refs/heads/main\n", f"{tip} refs/heads/main\r\n"):
        packed.write_text(spelled)
        assert source.read(ALL, tip).position == tip
    ref.write_text(f"{tip}\n")
    packed.unlink()
    source.write([Write("a", b"3")])
    assert repository.files()[b"a"] == b"3"
    source.close()


def test_packed_refs_that_are_a_directory_are_trouble(tmp_path):
    bare = Repository.new(tmp_path / "bare", bare=True)
    position = bare.import_commit({"a": "1"})
    bare.git("pack-refs", "--all", "--prune")
    (bare.path / "packed-refs").rename(bare.path / "kept")
    (bare.path / "packed-refs").mkdir()
    source = GitSource(bare.path)
    for since in (None, position):
        with pytest.raises(SourceUnavailable, match="is a directory"):
            source.read(ALL, since)
    source.close()
    (bare.path / "packed-refs").rmdir()
    (bare.path / "kept").rename(bare.path / "packed-refs")


def test_a_first_commit_that_is_just_made_is_no_lost_branch(tmp_path, monkeypatch):
    repository = Repository.new(tmp_path / "work")
    git = repository.path / ".git"
    source = GitSource(repository.path)
    assert source.read(ALL, None).position == "unborn"
    tip = repository.commit({"a": "1"})
    # As git does it: the log first, and then the ref.
    ref = git / "refs/heads/main"
    ref.rename(git / "later")
    late = SimpleNamespace(sleep=lambda _: (git / "later").rename(ref))
    monkeypatch.setattr(refs, "time", late)
    assert source.read(ALL, None).position == tip
    source.close()


def test_a_broken_ref_of_a_path_is_no_empty_remote(tmp_path):
    bare = Repository.new(tmp_path / "bare", bare=True)
    bare.import_commit({"a": "1"})
    ref = bare.path / "refs/heads/main"
    kept = ref.read_bytes()
    for how in (empty, cut, zeros):
        how(ref)
        for options in ({}, {"branch": "main"}):
            with pytest.raises(SourceUnavailable, match="nothing is taken for deleted"):
                RemoteGitSource(f"file://{bare.path}", **options)
        ref.write_bytes(kept)
    source = RemoteGitSource(f"file://{bare.path}")
    assert source.get("a").value == b"1"
    source.close()


def test_a_head_that_is_a_symbolic_link_is_followed(repository):
    head = repository.path / ".git/HEAD"
    head.unlink()
    head.symlink_to("refs/heads/main")
    git = repository.path / ".git"
    found = Refs(git, git, HEAD, "here").find()
    assert found == (b"refs/heads/main", repository.head().encode())


def test_symbolic_refs_in_a_circle_end(repository):
    for one, other in (("x", "y"), ("y", "x")):
        (repository.path / f".git/refs/heads/{one}").write_text(f"ref: refs/heads/{other}\n")
    source = GitSource(repository.path)
    (repository.path / ".git/HEAD").write_text("ref: refs/heads/x\n")
    with pytest.raises(DatastreamError, match="circle"):
        source.read(ALL, None)
    source.close()
    for name in ("x", "y"):
        (repository.path / f".git/refs/heads/{name}").unlink()
    (repository.path / ".git/HEAD").write_text("ref: refs/heads/main\n")


def test_a_head_that_leads_out_of_the_repository_is_refused(repository, tmp_path):
    (tmp_path / "elsewhere").write_text("0" * 40)
    source = GitSource(repository.path)
    head = repository.path / ".git/HEAD"
    for target in ("../../elsewhere", "refs/../../../elsewhere", "config"):
        head.write_text(f"ref: {target}\n")
        with pytest.raises(SourceUnavailable, match="names no branch"):
            source.read(ALL, None)
    head.write_text("ref: refs/heads/main\n")
    source.close()


@pytest.mark.parametrize("bare", [False, True])
def test_moved_away_and_back_it_is_read_whole_or_not_at_all(tmp_path, bare):
    repository = Repository.new(tmp_path / "here", bare=bare)
    source = GitSource(repository.path)
    position = source.write([Write("a", b"1"), Write("b/c", b"2")]).position
    over, odd = threading.Event(), []

    def tolerant(action):
        # While it is away, every call may fail, with an error of ours.
        try:
            return action()
        except Exception as error:
            ours = source.translate(error, None)
            return None if isinstance(ours, DatastreamError) else odd.append(ours)

    def read():
        while not over.is_set():
            reading = tolerant(lambda: source.read(ALL, None))
            if reading is not None and len(reading.entries) != 2:
                odd.append(reading)
            resumed = tolerant(lambda: source.read(ALL, position))
            if resumed is not None and (resumed.entries or resumed.complete):
                odd.append(resumed)
            if (fresh := tolerant(lambda: GitSource(repository.path))) is not None:
                keys = tolerant(fresh.capabilities)
                if keys is not None and len(keys) != 2:
                    odd.append(keys)
                fresh.close()

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(150):
        time.sleep(0.005)
        repository.path.rename(tmp_path / "away")
        time.sleep(0.002)
        (tmp_path / "away").rename(repository.path)
    over.set()
    for thread in threads:
        thread.join()
    assert not odd, odd[:3]
    assert source.read(ALL, position).position == position
    source.close()


def test_a_repository_that_is_removed_file_by_file_is_never_empty(tmp_path):
    repository = Repository.new(tmp_path / "here")
    keys = [f"d/{n}" for n in range(20)]
    repository.commit(dict.fromkeys(keys, "1"))
    source, over, odd = GitSource(repository.path), threading.Event(), []
    position = source.read(ALL, None).position

    def read():
        while not over.is_set():
            for since in (None, position):
                try:
                    reading = source.read(ALL, since)
                except Exception as error:
                    if not isinstance(source.translate(error, None), SourceUnavailable):
                        odd.append(error)
                else:
                    found = {entry.key for entry in reading.entries}
                    told = since or all(key in found or reading.is_unread(key) for key in keys)
                    if not told or (since and found):
                        odd.append(reading)

    thread = threading.Thread(target=read)
    thread.start()
    shutil.rmtree(repository.path)
    time.sleep(0.1)
    over.set()
    thread.join()
    assert not odd, odd[:3]
    source.close()


def read_or_unavailable(source, position):
    """Whether it could be read, wholly and from `position`; if not, it must say so."""
    done = []
    for since, count in ((None, 2), (position, 0)):
        try:
            reading = source.read(ALL, since)
        except Exception as error:
            if not isinstance(source.translate(error, None), SourceUnavailable):
                raise
            done.append(False)
        else:
            assert (len(reading.entries), reading.complete) == (count, since is None)
            done.append(True)
    return done


def test_too_many_open_files_are_trouble_and_no_empty_store(repository):
    source = GitSource(repository.path)
    position = source.read(ALL, None).position
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    here = psutil.Process().num_fds()
    fillers = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (here + 20, limits[1]))
        while True:
            try:
                fillers.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        # With none left, one, two and so on, until it works.
        while fillers and not all(read_or_unavailable(source, position)):
            os.close(fillers.pop())
        assert fillers
    finally:
        for filler in fillers:
            os.close(filler)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        source.close()


@pytest.mark.parametrize("how", [empty, cut, zeros, gone])
def test_a_clone_that_loses_its_ref_is_made_again(tmp_path, how):
    bare = Repository.new(tmp_path / "bare", bare=True)
    position = bare.import_commit({"a": "1"})
    source = RemoteGitSource(f"file://{bare.path}", interval=3600)
    assert source.read(ALL, position).entries == []
    (clone,) = clones(tmp_path)
    how(clone / "refs/datastream/tip")
    assert source.read(ALL, position).entries == []
    assert source.get("a").value == b"1"
    # Opened anew, by another process, it is not taken for that of an empty repository either.
    how(clone / "refs/datastream/tip")
    other = RemoteGitSource(f"file://{bare.path}", interval=3600)
    assert other.read(ALL, position).entries == []
    shutil.rmtree(clone)
    assert source.get("a").value == b"1"
    source.close()
    other.close()


def test_a_clone_without_ref_is_no_answer_while_the_remote_is_away(tmp_path):
    bare = Repository.new(tmp_path / "bare", bare=True)
    bare.import_commit({"a": "1"})
    source = RemoteGitSource(f"file://{bare.path}", interval=3600)
    (clone,) = clones(tmp_path)
    (clone / "refs/datastream/tip").unlink()
    bare.path.rename(tmp_path / "away")
    with pytest.raises(DatastreamError) as caught:
        source.read(ALL, None)
    assert isinstance(source.translate(caught.value, None), DatastreamError)
    with pytest.raises(DatastreamError):
        RemoteGitSource(f"file://{bare.path}", interval=3600)
    (tmp_path / "away").rename(bare.path)
    assert source.get("a").value == b"1"
    source.close()


def test_an_extension_that_is_not_known_is_named(repository):
    repository.git("config", "core.repositoryformatversion", "1")
    repository.git("config", "extensions.preciousObjects", "true")
    with pytest.raises(Unsupported, match="newer git library"):
        GitSource(repository.path)
    with pytest.raises(DatastreamError):
        RemoteGitSource(f"file://{repository.path}")
    repository.git("config", "--unset", "extensions.preciousObjects")


def test_an_empty_packed_refs_file_beside_the_ref_is_fine(repository):
    (repository.path / ".git/packed-refs").write_bytes(b"")
    source = GitSource(repository.path)
    assert source.get("a").value == b"1"
    source.write([Write("a", b"3")])
    assert source.get("a").value == b"3"
    source.close()


def test_a_commit_without_a_date_is_read(repository):
    tree = repository.head("HEAD^{tree}")
    commit = f"tree {tree}\nauthor S <s>\ncommitter S <s>\n\nm\n".encode()
    options = ("hash-object", "-w", "-t", "commit", "--literally", "--stdin")
    dateless = repository.git(*options, data=commit)
    before = repository.head()
    repository.git("update-ref", "refs/heads/main", dateless)
    source = GitSource(repository.path)
    assert source.get("a").value == b"1"
    assert source.get("a").updated_at is None
    assert source.read(ALL, before).entries == []
    assert [revision.entry.value for revision in source.history("a")] == [b"1"]
    source.write([Write("a", b"2")])
    assert source.get("a").value == b"2"
    source.close()
    # git fsck would complain of it.
    repository.git("update-ref", "refs/heads/main", before)
    repository.git("reflog", "expire", "--expire=now", "--all")
    repository.git("gc", "-q", "--prune=now")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("core.bigFileThreshold", "50m"),
        ("core.bigFileThreshold", "4"),
        ("core.deltaBaseCacheLimit", "256M"),
        ("core.packedGitLimit", "1g"),
        ("core.maxTreeDepth", "4k"),
        ("pack.windowMemory", "100m"),
        ("pack.deltaCacheSize", "128m"),
    ],
)
def test_numbers_in_the_configuration_may_have_units(tmp_path, name, value):
    repository = Repository.new(tmp_path / "work")
    repository.commit({"a": "longer than four bytes"})
    repository.git("config", name, value)
    source = GitSource(repository.path)
    source.write([Write("b", b"another value", "str")])
    assert {e.key: e.value for e in source.read(ALL, None).entries} == {
        "a": b"longer than four bytes",
        "b": b"another value",
    }
    source.close()
    assert repository.git("config", name) == value


@pytest.mark.parametrize("kind", ["blob", "tree", "commit"])
def test_an_object_that_was_cut_is_no_content(repository, kind):
    """As a power failure leaves it; a short start may already say what follows, and how much."""
    name = {"blob": "main:a", "tree": "main^{tree}", "commit": "main"}[kind]
    found = repository.git("rev-parse", name)
    place = repository.path / ".git" / "objects" / found[:2] / found[2:]
    place.chmod(0o644)
    whole = place.read_bytes()
    for length in range(len(whole)):
        place.write_bytes(whole[:length])
        source = GitSource(repository.path)
        found = trouble(source, lambda source=source: source.get("a"))
        # All of it may be there, and but a checksum cut off.
        error = Unreadable if kind == "blob" else SourceUnavailable
        assert isinstance(found, error) or found.value == b"1", (length, found)
        source.close()
    place.write_bytes(whole)
    source = GitSource(repository.path)
    assert source.get("a").value == b"1"
    source.close()
