"""The file of a view's cache: what is written is read, and what is damaged or foreign is not."""

import json
import logging
import os
import zlib
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datastream import Selection
from datastream._view import cache
from datastream._view.cache import MAGIC, Cached, CacheFile, TooLarge, in_chunks, rows_of

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SELECTION = Selection.of("fx/", match="a/*", exclude="fx/old")

rows = st.dictionaries(
    st.text(min_size=1), st.tuples(st.binary(), st.sampled_from(["int", "bytes"]), st.text())
)


def cached(good, refused=None, cursor="c"):
    return Cached(list(in_chunks(good)), list(in_chunks(refused or {})), cursor, NOW)


def as_rows(chunks):
    return {key: row for some in chunks for key, row in rows_of(some)}


@pytest.fixture
def file(tmp_path):
    return CacheFile(tmp_path / "fx.cache", "sqlite:x.db", SELECTION)


@settings(max_examples=25, deadline=None)
@given(rows, rows)
def test_what_is_written_is_read(tmp_path_factory, good, refused):
    file = CacheFile(tmp_path_factory.mktemp("c") / "x", "store", SELECTION)
    file.write(cached(good, refused))
    found = file.read()
    assert as_rows(found.good) == good
    assert as_rows(found.refused) == refused
    assert (found.cursor, found.saved_at) == ("c", NOW)


def test_many_rows_are_written_in_chunks(file):
    good = {f"fx/{n}": (b"%d" % n, "int", str(n)) for n in range(2_500)}
    file.write(cached(good))
    assert [len(some.keys) for some in file.read().good] == [1_000, 1_000, 500]


def test_nobody_else_can_read_it_and_nothing_is_left_beside_it(file):
    file.write(cached({"a": (b"secret", "str", "1")}))
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert list(file.path.parent.iterdir()) == [file.path]


def test_there_is_none_at_first(file, caplog):
    assert file.read() is None
    assert not caplog.records


def test_every_damage_is_noticed(file, caplog):
    file.write(cached({"a": (b"1", "int", "1"), "b": (b"2", "int", "2")}))
    content = file.path.read_bytes()
    for size in range(0, len(content), 7):
        file.path.write_bytes(content[:size])
        assert file.read() is None
    for place in range(0, len(content), 5):
        changed = bytearray(content)
        changed[place] ^= 4
        file.path.write_bytes(changed)
        assert file.read() is None
    assert all("is ignored" in record.getMessage() for record in caplog.records)
    file.path.write_bytes(content)
    assert file.read() is not None


@pytest.mark.parametrize("line", ["[]", "null", "7", '{"of": 1}', "{", '{"of": {}}', "[" * 9999])
def test_what_is_whole_but_no_cache_is_ignored(file, line):
    body = line.encode() + b"\n"
    file.path.write_bytes(MAGIC + b"%08x\n" % zlib.crc32(body) + body)
    file.path.chmod(0o600)
    assert file.read() is None


def test_chunks_that_lie_about_their_length_are_ignored(file):
    file.write(cached({"a": (b"1", "int", "1")}))
    _, head, chunk, _ = file.path.read_bytes().split(b"\n")
    columns = json.loads(chunk) | {"revisions": []}
    body = head + b"\n" + json.dumps(columns).encode() + b"\n"
    file.path.write_bytes(MAGIC + b"%08x\n" % zlib.crc32(body) + body)
    assert file.read() is None


@pytest.mark.parametrize("other", [("sqlite:y.db", SELECTION), ("sqlite:x.db", Selection.of("a"))])
def test_that_of_another_store_or_selection_is_ignored(file, other, caplog):
    file.write(cached({"a": (b"1", "int", "1")}))
    assert CacheFile(file.path, *other).read() is None
    assert "another store or selection" in caplog.text


def test_one_that_others_may_write_is_ignored(file, caplog):
    file.write(cached({"a": (b"1", "int", "1")}))
    file.path.chmod(0o622)
    assert file.read() is None
    assert "others may write it" in caplog.text


def test_what_is_no_file_is_ignored(file):
    file.path.mkdir()
    assert file.read() is None
    file.path.rmdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(file.path)
        assert file.read() is None, "and nobody waited for a writer"


def test_its_size_is_bounded(file, monkeypatch):
    file.write(cached({"a": (b"1", "int", "1")}))
    monkeypatch.setattr(cache, "MAX_BYTES", 1_000)
    with pytest.raises(TooLarge, match="select fewer keys"):
        file.write(cached({"a": (b"x" * 2_000, "str", "1")}))
    assert not list(file.path.parent.iterdir())
    file.path.write_bytes(b"x" * 2_000)
    assert file.read() is None


def test_what_killed_processes_left_is_removed_after_a_while(file, caplog):
    old, new = (file.path.with_name(f".fx.cache.{n}-0.tmp") for n in (1, 2))
    for path in (old, new):
        path.write_bytes(b"")
    os.utime(old, (1, 1))
    caplog.set_level(logging.WARNING)
    file.remove_abandoned()
    assert list(file.path.parent.iterdir()) == [new]
