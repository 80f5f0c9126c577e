"""Commits, trees and files that only git reads kindly, or not even git: what is raised is ours."""

import gc
import logging
import shutil

import pytest

from datastream.errors import DatastreamError, InvalidKey, SourceUnavailable
from datastream.selection import Selection
from datastream.source import Write
from datastream.sources.git import GitSource, RemoteGitSource
from tests.repositories import Repository, git_environment  # noqa: F401  (a fixture)

# dulwich leaves to the garbage collector what it has opened of a pack that it then cannot read.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

ALL = Selection.of()


@pytest.fixture
def repository(tmp_path):
    repository = Repository.new(tmp_path / "work")
    repository.commit({"a": "1", "dir/b": "1"})
    return repository


@pytest.fixture(autouse=True)
def not_checked(repository):
    """What is made here does not please git fsck; and is collected here, not in a later test."""
    yield
    Repository.made.clear()
    gc.collect()


def stored(repository, kind, data):
    options = ("hash-object", "-w", "-t", kind, "--literally", "--stdin")
    return repository.git(*options, data=data)


def tip(repository, commit):
    # git update-ref looks at the commit.
    (repository.path / ".git/refs/heads/main").write_text(f"{commit}\n")


def ours(source, action):
    """The result of an action; None if it raised an error of ours, and nothing else is raised."""
    try:
        return action()
    except Exception as error:
        found = source.translate(error, None)
        if not isinstance(found, DatastreamError):
            raise
        return None


def every_call(source, position, key="a"):
    yield lambda: source.read(ALL, None)
    yield lambda: source.read(ALL, position)
    yield lambda: source.get(key)
    yield lambda: source.get("nothing")
    yield source.capabilities
    yield lambda: list(source.history(key))
    for point in ("HEAD", "@", "HEAD~1", "main", position[:7], "2020-01-01T00:00:00Z", "none"):
        yield lambda point=point: source.at(point).close()
    yield lambda: list(source.replay(ALL, None))
    yield lambda: list(source.replay(ALL, position))
    yield lambda: source.wait(0.01)
    yield lambda: source.write([Write("new", b"x")])
    yield lambda: source.write([Write(key, None)])


# Commits.

SIGNED = "author A <a@x> 1 +0000\ncommitter C <c@x> 1 +0000\n"
ODD_COMMITS = {
    "no author": "committer C <c@x> 1 +0000\n",
    "no committer": "author A <a@x> 1 +0000\n",
    "nothing else": "",
    "no dates": "author A <a@x>\ncommitter C <c@x>\n",
    "no addresses": "author A 1 +0000\ncommitter C 1 +0000\n",
    "only addresses": "author <a@x> 1 +0000\ncommitter <c@x> 1 +0000\n",
    "odd time zones": "author A <a@x> 1 +9999999\ncommitter C <c@x> 1 UTC\n",
    "no time zones": "author A <a@x> 1\ncommitter C <c@x> 1\n",
    "a year far away": "author A <a@x> 99999999999999 +0\ncommitter C <c@x> 99999999999999 +0\n",
    "a number without end": f"author A <a@x> {'9' * 5000} +0\ncommitter C <c@x> {'9' * 5000} +0\n",
    "a negative date": "author A <a@x> -1 +0000\ncommitter C <c@x> -99999999999 +0000\n",
    "a date that is none": "author A <a@x> 1.5 +0000\ncommitter C <c@x> today +0000\n",
    "a broken address": "author A >a@x< 1 +0000\ncommitter C <<c@x>> 1 +0000\n",
    "two authors": SIGNED.replace("committer", "author B <b@x> 1 +0000\ncommitter"),
    "committer first": "committer C <c@x> 1 +0000\nauthor A <a@x> 1 +0000\n",
    "an unknown encoding": SIGNED + "encoding klingon\n",
    "no text encoding": SIGNED + "encoding hex\n",
    "a raising encoding": SIGNED + "encoding undefined\n",
    "an encoding that is none": SIGNED + "encoding \xff\n",
    "an encoding of surrogates": SIGNED + "encoding utf-7\n",
    "unknown headers": SIGNED + "mergetag object\n tag\nHG:extra x\ngpgsig\n\n",
    "a header without value": SIGNED + "gpgsig\n",
}


def test_odd_commits_are_read_like_any_other(repository):
    trees = []
    for number in (2, 3):
        repository.commit({"a": str(number)})
        trees.append(repository.head("HEAD^{tree}"))
    before = repository.head()
    source = GitSource(repository.path)
    for number, (what, headers) in enumerate(ODD_COMMITS.items()):
        value = b"%d" % (2 + number % 2)
        raw = f"tree {trees[number % 2]}\nparent {before}\n{headers}\nm+2AA-\0\x80\n"
        odd = stored(repository, "commit", raw.encode("latin-1"))
        tip(repository, odd)
        assert source.get("a").value == value, what
        (change,) = source.read(ALL, before).entries
        assert change.value == value, what
        assert source.read(ALL, odd).entries == [], what
        assert source.at(odd).get("a").value == value, what
        revision = next(source.history("a"))
        assert (revision.point, revision.entry.value) == (odd, value), what
        (revision.author + revision.message).encode()
        before = odd
    source.write([Write("a", b"last")])
    count = len(ODD_COMMITS)
    assert len(list(source.history("a"))) == count + 4
    assert len(list(source.replay(ALL, None))) == count + 5
    assert repository.git("rev-list", "--count", "HEAD") == str(count + 4)
    source.close()


@pytest.mark.parametrize("tree", ["missing", "a blob", "a commit", "cut", "without a mode"])
def test_a_commit_whose_tree_is_broken_ends_no_history(repository, caplog, tree):
    first = repository.head()
    ids = {
        "missing": "1" * 40,
        "a blob": repository.head("HEAD:a"),
        "a commit": first,
        "cut": stored(repository, "tree", b"100644 a\0short"),
        "without a mode": stored(repository, "tree", b" a\0" + bytes(20)),
    }
    odd = stored(
        repository, "commit", f"tree {ids[tree]}\nparent {first}\n{SIGNED}\nodd\n".encode()
    )
    tip(repository, odd)
    source = GitSource(repository.path)
    for action in every_call(source, first):
        ours(source, action)
    with pytest.raises(SourceUnavailable):
        source.read(ALL, None)
    good = stored(
        repository,
        "commit",
        f"tree {repository.head(f'{first}^{{tree}}')}\nparent {odd}\n{SIGNED}\n\n".encode(),
    )
    tip(repository, good)
    source.write([Write("a", b"3")])
    with caplog.at_level(logging.WARNING):
        values = [r.entry.value for r in source.history("a")]
        assert (values[0], values[-1]) == (b"3", b"1")
        assert [r.position for r in source.replay(ALL, None)][-1] == repository.head()
    assert odd not in [r.point for r in source.history("a")]
    assert "leaves a commit out" in caplog.text
    assert source.at("HEAD~3").get("a").value == b"1"
    source.close()


@pytest.mark.parametrize("kind", ["commit", "tag", "nonsense"])
def test_a_tip_that_is_no_commit_is_trouble(repository, kind):
    before = repository.head()
    source = GitSource(repository.path)
    for start in (b"", b"\n", b"%s\n", b"%s 123\n", b"parent x\n", b"\0", b"%s " + b"z" * 40):
        raw = start.replace(b"%s", b"object" if kind == "tag" else b"tree")
        tip(repository, stored(repository, kind, raw))
        for action in every_call(source, before):
            ours(source, action)
        with pytest.raises(SourceUnavailable):
            source.read(ALL, before)
        tip(repository, before)
        assert source.get("a").value == b"1"
    source.close()


# Trees.

NAMES = [".", "..", "", ".git", ".GIT", "git~1", "a/b", "/", "\n", "CON", "x:y", "\\", "n" * 70_000]
NAMES += ["\u200c.git", "\udcff", " ", "-", "*", "\\x41", "a\\..\\b"]


def entry(name, mode="100644", item=None):
    return f"{mode} {name}".encode("utf-8", "surrogateescape") + b"\0" + bytes.fromhex(item)


@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_odd_names_in_a_tree_hang_and_harm_nothing(repository, tmp_path, folder):
    outside = [tmp_path / "b", tmp_path / "work" / "b", repository.path / ".git/b"]
    for place in outside:
        place.write_text("1")
    blob, first = repository.head("HEAD:a"), repository.head()
    below = stored(repository, "tree", entry("b", item=blob))
    source = GitSource(repository.path)
    for name in NAMES:
        odd = entry(name, "40000", below) if folder else entry(name, item=blob)
        root = stored(repository, "tree", odd + entry("zz", item=blob))
        raw = f"tree {root}\nparent {first}\n{SIGNED}\nm\n".encode()
        tip(repository, stored(repository, "commit", raw))
        keys = [entry.key for entry in source.read(ALL, None).entries]
        assert "zz" in keys
        assert [c.key for c in source.capabilities()] == keys
        for key in keys:
            assert source.get(key).value == b"1"
            for action in every_call(source, first, key):
                ours(source, action)
        left = [entry.key for entry in source.read(ALL, None).entries]
        assert "new" in left
        assert not set(left) & set(keys), name[:9]
        assert all(place.read_text() == "1" for place in outside), name[:9]
    source.close()


def test_odd_modes_and_orders_are_read(repository):
    blob, first = repository.head("HEAD:a"), repository.head()
    source = GitSource(repository.path)
    for entries in (
        [("a", "0"), ("b", "100644")],
        [("a", "100664"), ("b", "0100644")],
        [("a", "777"), ("b", "777777777777777")],
        [("a", "140000"), ("b", "100644")],
        [("b", "100644"), ("a", "100644")],
        [("a", "100644"), ("a", "100644"), ("b", "100644")],
        [("a", "100644"), ("a", "40000"), ("b", "100644")],
        [("a", "40000"), ("b", "100644")],
    ):
        root = stored(repository, "tree", b"".join(entry(n, mode, blob) for n, mode in entries))
        raw = f"tree {root}\nparent {first}\n{SIGNED}\nm\n".encode()
        tip(repository, stored(repository, "commit", raw))
        for key in ("a", "b", "a/x"):
            for action in every_call(source, first, key):
                ours(source, action)
    source.close()


def test_a_tree_deeper_than_the_stack_is_read(repository):
    tree, first = stored(repository, "tree", entry("x", item=repository.head("HEAD:a"))), "HEAD"
    for _ in range(1500):
        tree = stored_fast(repository, tree)
    raw = f"tree {tree}\nparent {repository.head(first)}\n{SIGNED}\nm\n".encode()
    tip(repository, stored(repository, "commit", raw))
    source = GitSource(repository.path)
    (found,) = source.read(ALL, None).entries
    assert found.key.endswith("d/x")
    for action in every_call(source, repository.head(), found.key):
        ours(source, action)
    source.close()


def stored_fast(repository, below):
    """A tree with one folder, stored without a process of its own."""
    import hashlib
    import zlib

    raw = entry("d", "40000", below)
    raw = b"tree %d\0" % len(raw) + raw
    name = hashlib.sha1(raw).hexdigest()
    place = repository.path / ".git/objects" / name[:2] / name[2:]
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(zlib.compress(raw))
    return name


def test_keys_are_refused_that_git_refuses_on_some_system(repository):
    refused = [".", "..", "a/..", "a/./b", ".git", ".GIT", "git~1", "a/GIT~1/x", ".git.", ".git "]
    refused += [".git::$INDEX_ALLOCATION", ".git:x", ".g\u200cit", ".git\\x", "a\\.git\\x", "/x"]
    written = [
        "..\\x",
        "a\\..\\b",
        "CON",
        "NUL.txt",
        "a:b",
        "c:",
        "a.",
        "a ",
        "a?",
        "\\",
        "gitmod~1",
    ]
    blob = repository.head("HEAD:a")
    source = GitSource(repository.path)
    for key in refused + written:
        repository.git(
            *("-c", "core.protectNTFS=true", "-c", "core.protectHFS=true", "update-index"),
            *("--add", "--cacheinfo", f"100644,{blob},{key}"),
            check=False,
        )
        listed = repository.raw("ls-files", "-z").split(b"\0")
        assert (key.encode() in listed) == (key in written), key
        if key in written:
            repository.git("update-index", "--force-remove", key)
            source.write([Write(key, b"x")])
            assert source.get(key).value == b"x"
        else:
            with pytest.raises(InvalidKey):
                source.write([Write(key, b"x")])
    assert repository.git("status", "--porcelain") == ""
    source.close()


# Files of the repository.


def empty(place):
    place.write_bytes(b"")


def cut(place):
    place.write_bytes(place.read_bytes()[: place.stat().st_size // 2])


def zeros(place):
    place.write_bytes(bytes(place.stat().st_size))


def noise(place):
    place.write_bytes(b"\xff\x00[garbage\n = \\\x80" * 40)


def flipped(place):
    raw = bytearray(place.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    place.write_bytes(raw)


def folder(place):
    place.unlink()
    place.mkdir()


def gone(place):
    place.unlink()


FILES = [
    *("HEAD", "config", "packed-refs", "index", "refs/heads/main", "logs/HEAD"),
    *("logs/refs/heads/main", "shallow", "info/grafts", "info/sparse-checkout", "commondir"),
    *("objects/info/alternates", "objects/info/commit-graph", "objects/info/packs"),
    *("objects/pack/multi-pack-index", "*.pack", "*.idx", "*.rev", "*.bitmap", "loose"),
]


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "how",
    [
        pytest.param(how, marks=[] if how is noise else [pytest.mark.chaos])
        for how in (empty, cut, zeros, noise, flipped, folder, gone)
    ],
)
@pytest.mark.parametrize(
    "packed", [pytest.param(False, marks=pytest.mark.chaos), True], ids=["loose", "packed"]
)
def test_whatever_file_is_broken_what_is_raised_is_ours(repository, tmp_path, how, packed):
    position = repository.commit({"a": "2"})
    if packed:
        repository.git("repack", "-adqb")
        repository.git("multi-pack-index", "write")
        repository.git("pack-refs", "--all")
    repository.git("commit-graph", "write")
    kept = tmp_path / "kept"
    shutil.copytree(repository.path, kept)
    live = GitSource(repository.path)
    live.read(ALL, None)
    for name in FILES:
        if name == "loose":
            blob = repository.head("HEAD:a")
            name = f"objects/{blob[:2]}/{blob[2:]}"
        places = list((repository.path / ".git").rglob(name)) if "*" in name else []
        place = places[0] if places else repository.path / ".git" / name
        if not place.exists():
            if "*" in name or packed or how is gone:
                continue
            place.parent.mkdir(exist_ok=True, parents=True)
            place.write_bytes(b"one\ntwo\n")
        place.chmod(0o644)
        how(place)
        for source in (live, ours(live, lambda: GitSource(repository.path))):
            if source is not None:
                for action in every_call(source, position):
                    ours(source, action)
        remote = ours(live, lambda: RemoteGitSource(f"file://{repository.path}"))
        for source in (live, remote):
            if source is not None and source is not live:
                for action in every_call(source, position):
                    ours(source, action)
                source.close()
        shutil.rmtree(repository.path)
        shutil.copytree(kept, repository.path)
        # Once repaired, the store that was open goes on.
        assert live.read(ALL, position).entries == [], name
        assert live.get("a").value == b"2"
    live.close()
