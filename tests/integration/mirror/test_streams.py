"""Large values are copied in pieces, never whole in memory."""

import filecmp
import os
import tracemalloc

import pytest

import datastream
from datastream import SourceUnavailable, State, Unsupported, mirror
from datastream.sources.s3.streams import PART
from tests.integration._programs.tools import eventually
from tests.repositories import git_environment  # noqa: F401

LONG = 60
MIB = 1 << 20
MORE = [
    *(("file", "file"), ("fsspec", "file"), ("fsspec", "fsspec")),
    *(("file", "git"), ("git", "file"), ("git", "git")),
]
PAIRS = [("file", "fsspec"), *(pytest.param(pair, marks=pytest.mark.chaos) for pair in MORE)]


def held(store):
    found = {key: entry.value for key, entry in store.snapshot().items()}
    return {key: value for key, value in found.items() if not key.startswith("_datastream/")}


def live_through(a, b):
    """A mirror in pieces is a mirror: it follows, deletes, notices others, and goes on."""
    a.put_many({"a.txt": "one", "b/c.bin": os.urandom(100), "empty.bin": b""})
    with mirror(a, b, stream=True, on_conflict="source") as running:
        assert running.flush(LONG)
        assert held(a) == held(b)
        a.put("a.txt", "two")
        a.put("large.bin", b"x" * (2 * MIB + 1))
        a.delete("b/c.bin")
        assert running.flush(LONG)
        assert held(a) == held(b)
        b.put("a.txt", "by others")
        assert running.flush(LONG)
        assert held(a) == held(b)
    a.put("a.txt", "three")
    with mirror(a, b, stream=True) as running:
        assert running.flush(LONG)
        assert running.counts.puts == 1
        assert held(a) == held(b)
        b.put("a.txt", "by others")
        with pytest.raises(datastream.DatastreamError, match="others wrote"):
            running.flush(LONG)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_a_mirror_in_pieces_is_a_mirror(kinds, pair):
    live_through(*map(kinds.open, pair))


@pytest.mark.chaos
@pytest.mark.usefixtures("s3_url")
@pytest.mark.parametrize("pair", [("file", "s3"), ("s3", "file"), ("s3", "fsspec")], ids="-".join)
def test_a_mirror_in_pieces_of_a_bucket_is_a_mirror(kinds, pair):
    live_through(*map(kinds.open, pair))


@pytest.mark.chaos
@pytest.mark.usefixtures("s3_url")
def test_an_object_in_parts_arrives_whole(kinds):
    a, b, c = kinds.open("file"), kinds.open("s3"), kinds.open("file")
    a.put("large.bin", os.urandom(2 * PART + 7))
    with mirror(a, b, stream=True) as running:
        assert running.flush(LONG)
    assert b._source._bucket.head_many(["large.bin"])[0].etag.endswith('-3"')
    with mirror(b, c, stream=True) as running:
        assert running.flush(LONG)
    assert held(a) == held(b) == held(c)
    # An ETag of parts is no MD5, and still nothing is copied again.
    with mirror(a, b, stream=True) as running:
        assert running.flush(LONG)
        assert running.counts.puts == 0


def test_a_large_value_is_never_whole_in_memory(tmp_path):
    size, block = 48 * MIB, os.urandom(MIB)
    (tmp_path / "a").mkdir()
    with (tmp_path / "a" / "large.bin").open("wb") as file:
        for _ in range(size // MIB):
            file.write(block)
    b = datastream.open(f"file:{tmp_path}/b", create=True)
    with datastream.open(f"file:{tmp_path}/a") as a, b:
        tracemalloc.start()
        # Not told to: it is larger than what is copied whole.
        with mirror(a, b) as running:
            assert running.flush(LONG)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert filecmp.cmp(tmp_path / "a" / "large.bin", tmp_path / "b" / "large.bin", shallow=False)
    assert peak < 12 * MIB


def test_a_copy_that_breaks_off_leaves_what_was_there(kinds):
    a, b = kinds.open("file"), kinds.open("file")
    a.put("k.bin", b"old")
    with mirror(a, b, stream=True) as running:
        assert running.flush(LONG)

        def broken(key):
            yield b"ne"
            raise SourceUnavailable("it broke off")

        whole, a._source.pieces = a._source.pieces, broken
        a.put("k.bin", b"new")
        running._worker._source.refresh()
        eventually(lambda: running.status.current.state is State.STALE, "it says so")
        assert held(b) == {"k.bin": b"old"}
        a._source.pieces = whole
        running.refresh()
        assert running.flush(LONG)
        assert held(b) == {"k.bin": b"new"}


def test_what_cannot_stream_says_so(kinds):
    with pytest.raises(Unsupported, match="stream=True needs directories"):
        mirror(kinds.open("memory"), kinds.open("file"), stream=True)
