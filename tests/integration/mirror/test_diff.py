"""How stores of all kinds differ, and what it costs to find out."""

import os
import sqlite3
import time
import tracemalloc

import pytest

import datastream
from datastream import DatastreamError, InvalidValue, Store, diff
from datastream.sources.files import FilesSource
from datastream.sources.memory import MemorySource
from datastream.sources.s3 import S3Source
from tests.repositories import git_environment  # noqa: F401
from tests.servers.s3 import CREDENTIALS, client, new_bucket

CHAOS = pytest.mark.chaos
KINDS = ["memory", "sqlite", "file", "git", "fsspec", "grpc"]
VALUES = {"a.txt": "one", "b/c.txt": "two", "b/d.json": {"n": 1}, "e.bin": b"\0\1"}


def kinds_of(differences):
    return [(found.key, found.kind) for found in differences]


@pytest.mark.parametrize("other", KINDS)
@pytest.mark.parametrize(
    "kind", ["file", *(pytest.param(k, marks=CHAOS) for k in ("memory", "git"))]
)
def test_what_differs_is_told_sorted(kinds, kind, other):
    a, b = kinds.open(kind), kinds.open(other)
    a.put_many(VALUES)
    b.put_many(VALUES)
    keeps = datastream.Feature.TYPES in a.features and datastream.Feature.TYPES in b.features
    assert list(diff(a, b)) == [] or not keeps
    a.put_many({"z.txt": "only here", "b/c.txt": "changed"})
    b.put("b/a.txt", "only there")
    found = list(diff(a, b))
    expected = [("b/a.txt", "only_b"), ("b/c.txt", "changed"), ("z.txt", "only_a")]
    assert kinds_of(found) == expected
    assert (found[1].a.decode(), found[1].b.decode()) == ("changed", "two")
    assert (found[0].a, found[2].b) == (None, None)
    assert kinds_of(diff(a, b, "b/")) == expected[:2]
    assert kinds_of(diff(a, b, match="*.txt", exclude="z*")) == []
    bare = list(diff(a, b, values=False))
    assert kinds_of(bare) == expected


def test_what_is_the_same_size_is_compared_by_content(kinds):
    a, b = kinds.open("file"), kinds.open("fsspec")
    a.put("k.txt", "one")
    b.put("k.txt", "two")
    assert kinds_of(diff(a, b)) == [("k.txt", "changed")]


def test_files_and_their_copy_in_a_bucket_are_compared_without_a_get(s3_url, tmp_path, stack):
    bucket = new_bucket(s3_url)
    directory = tmp_path / "files"
    files = stack.enter_context(Store(FilesSource(directory, create=True)))
    files.put_many({f"{n}.txt": f"value {n}" for n in range(20)})
    for n in range(20):
        client(s3_url).put_object(Bucket=bucket, Key=f"{n}.txt", Body=f"value {n}".encode())
    source = S3Source(bucket, endpoint_url=s3_url, **CREDENTIALS)
    read = []
    source._bucket.get_many = lambda names, **_: read.extend(names) or []
    objects = stack.enter_context(Store(source))
    assert list(diff(files, objects)) == []
    assert read == []
    time.sleep(0.06)  # until a listing of the files can be trusted
    files._source.digest = None
    assert list(diff(files, objects, compare="times")) == []


def test_times_see_what_was_written_after_the_copy(tmp_path, stack):
    one, two = (tmp_path / name for name in ("one", "two"))
    a, b = (stack.enter_context(Store(FilesSource(path, create=True))) for path in (one, two))
    a.put_many({"k": "old!", "same": "same"})
    b.put_many({"k": "copy", "same": "same"})
    past = time.time() - 100
    os.utime(two / "k", (past, past))
    os.utime(one / "k", (past + 50, past + 50))
    time.sleep(0.06)
    assert kinds_of(diff(a, b, compare="times")) == [("k", "changed")]
    os.utime(one / "k", (past - 50, past - 50))
    time.sleep(0.06)
    assert kinds_of(diff(a, b, compare="times")) == []


def test_nothing_is_said_of_what_cannot_be_read(tmp_path, stack):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    a, b = (stack.enter_context(Store(FilesSource(tmp_path / name, create=True))) for name in "ab")
    a.put_many({"secret": "1", "x": "1"})
    b.put_many({"secret": "2", "x": "2"})
    (tmp_path / "a" / "secret").chmod(0)
    found = diff(a, b)
    assert kinds_of(found) == [("x", "changed")]
    assert found.unread == {"secret"}


def test_stores_are_opened_by_url_and_closed(tmp_path):
    with datastream.open(f"sqlite:{tmp_path}/a.db", create=True) as store:
        store["k"] = 1
    with diff(f"sqlite:{tmp_path}/a.db", "memory:") as found:
        assert next(found).kind == "only_a"
    assert list(found) == []
    with pytest.raises(DatastreamError, match="give a store or the URL"):
        diff(3, "memory:")
    with pytest.raises(InvalidValue, match="content"):
        diff("memory:", "memory:", compare="size")


def test_types_count_where_both_keep_them(stack):
    a, b = (stack.enter_context(Store(MemorySource())) for _ in "ab")
    a.put("k", b"1", value_type="int")
    b.put("k", b"1", value_type="str")
    assert kinds_of(diff(a, b)) == [("k", "changed")]


def test_the_keys_of_mirrors_are_left_out(stack):
    a, b = (stack.enter_context(Store(MemorySource())) for _ in "ab")
    b.put("_datastream/mirror/x.json", {})
    assert list(diff(a, b)) == []


def test_a_notebook_shows_it_and_it_can_still_be_read(kinds):
    a, b = kinds.open("memory"), kinds.open("memory")
    a.put_many({"both": 1, "only/a": "here"})
    b["both"] = "<script>"
    found = diff(a, b)
    page = found._repr_html_()
    assert "only/a" in page
    assert "<script>" not in page
    assert [one.key for one in found] == ["both", "only/a"]
    assert "no difference" in diff(a, a)._repr_html_()


@pytest.mark.parametrize(
    "same", [pytest.param(True, id="equal"), pytest.param(False, id="different", marks=CHAOS)]
)
def test_of_tables_of_any_size_some_mib_are_in_memory(kinds, same):
    a, b = kinds.open("sqlite"), kinds.open("sqlite")
    count = 150 if same else 600
    values = {f"{n:03}": bytes([n % 256]) * 100_000 for n in range(count)}
    a.put_many(values)
    b.put_many(values if same else {key: value[1:] for key, value in values.items()})
    del values
    tracemalloc.start()
    try:
        assert sum(1 for _ in diff(a, b)) == (0 if same else count)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < (3 << 20 if same else 30 << 20)


TABLES = {
    "numbers": "CREATE TABLE data (key INTEGER PRIMARY KEY, value)",
    "any type": "CREATE TABLE data (key PRIMARY KEY NOT NULL, value)",
    "ignoring case": "CREATE TABLE data (key TEXT PRIMARY KEY NOT NULL COLLATE NOCASE, value)",
    "two columns": "CREATE TABLE data (key, value, more TEXT NOT NULL, PRIMARY KEY (key, more))",
}


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16"])
@pytest.mark.parametrize("table", TABLES)
def test_tables_that_sort_in_another_way_are_compared(tmp_path, stack, table, encoding):
    numbers = [0, 2, 10, 100, 3]
    keys = (
        numbers if table == "numbers" else [*numbers, "B", "a", "c", "\uff00", "\U0001f600", "a/b"]
    )
    column = "key,more" if table == "two columns" else "key"
    if column != "key":
        keys.remove("a/b")
    with sqlite3.connect(tmp_path / "a.db") as database:
        database.execute(f"PRAGMA encoding='{encoding}'")
        database.execute("PRAGMA journal_mode=wal")
        database.execute(TABLES[table])
        more, marks = (", more", ", 'x'") if column != "key" else ("", "")
        rows = [(key, "v") for key in keys]
        database.executemany(f"INSERT INTO data (key, value{more}) VALUES (?, ?{marks})", rows)
    database.close()
    a = stack.enter_context(datastream.open(f"sqlite:{tmp_path}/a.db?key={column}"))
    b = stack.enter_context(datastream.open("memory:"))
    state = a.snapshot()
    assert len(state) == len(keys)
    assert [entry.key for entry in a.entries()] == sorted(state)
    b.write(*(datastream.Write(key, e.value, e.value_type) for key, e in state.items()))
    assert list(diff(a, b)) == list(diff(b, a)) == []
