"""Between stores: what comparing and mirroring cost, beside the least that has to be done."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import psycopg
from dulwich.diff_tree import tree_changes
from dulwich.repo import Repo

import datastream
from datastream import Store
from datastream.sources.s3 import S3Source
from tests.bench.arrivals import Arrivals
from tests.bench.child import Child
from tests.bench.figures import Effort, Figure, noted, take_turns
from tests.bench.git_files import FILES, MAIN, repository
from tests.bench.postgres import TABLE
from tests.servers.s3 import CREDENTIALS, client
from tests.servers.s3_proxy import Proxy

DIFFS = 50
COPIED, SIZE = 10_000, 64
ROWS = 100_000
COMMITS, PAUSE = 300, 0.02
"""Commits, and seconds between them."""
TIMEOUT = 300.0


def between(effort: Effort) -> Iterator[Figure]:
    """All of them."""
    if shutil.which("git") is not None:
        yield _git(effort)
    yield from _bucket(effort)
    yield _rows(effort)
    yield _live(effort)


def _git(effort: Effort) -> Figure:
    """Two equal repositories, opened before."""
    diffs = effort.of(DIFFS)
    with repository(FILES) as path, TemporaryDirectory(prefix="datastream-bench-") as folder:
        other = Path(folder, "other.git")
        shutil.copytree(path, other)
        with (
            datastream.open(f"git:{path}") as a,
            datastream.open(f"git:{other}") as b,
            closing(Repo(str(path))) as one,
            closing(Repo(str(other))) as two,
        ):

            def ours() -> float:
                start = time.perf_counter()
                for _ in range(diffs):
                    assert list(datastream.diff(a, b)) == []
                return (time.perf_counter() - start) * 1000 / diffs

            def floor() -> float:
                start = time.perf_counter()
                for _ in range(diffs):
                    trees = [repo[repo.refs[MAIN]].tree for repo in (one, two)]  # type: ignore[attr-defined]
                    assert list(tree_changes(one.object_store, *trees)) == []
                return (time.perf_counter() - start) * 1000 / diffs

            return take_turns(effort, ours, floor).figure(
                f"diff of two equal git stores of {FILES:,} files",
                "ms",
                "≤ 2 × dulwich's tree_changes of both heads",
                lambda ratio: ratio <= 2,
            )


def _bucket(effort: Effort) -> Iterator[Figure]:
    keys = effort.of(COPIED)
    with (
        Child("s3_server") as server,
        Proxy(server.ask("url")) as proxy,
        TemporaryDirectory(prefix="datastream-bench-") as folder,
    ):
        bucket = server.ask("bucket", keys, SIZE)
        first = client(server.ask("url")).get_object(Bucket=bucket, Key="k/000000.txt")
        content = first["Body"].read()
        Path(folder, "k").mkdir()
        for number in range(keys):
            Path(folder, "k", f"{number:06d}.txt").write_bytes(content)
        # Until a listing of files that were written just now can be trusted.
        time.sleep(0.1)
        source = S3Source(bucket, endpoint_url=proxy.url, interval=3600, **CREDENTIALS)
        with datastream.open(f"file:{folder}") as files, Store(source, name="bucket") as objects:
            for compare, floor in (("times", "one listing each"), ("content", "MD5 of each file")):
                proxy.forget()
                took = _compare(files, objects, compare)
                counts = dict(proxy.counts)
                pages = -(-keys // 1000)
                yield Figure(
                    name=f"diff of {keys:,} files and their S3 copy, {compare}",
                    unit="requests",
                    ours=sum(counts.values()),
                    floor=pages,
                    ratio=sum(counts.values()) / pages,
                    wanted=f"{pages} lists, 0 gets",
                    ok=counts == {"list": pages},
                    note=f"{took:.2f} s; {floor}; counted: {counts}",
                )


def _compare(files: Store, objects: Store, compare: str) -> float:
    start = time.perf_counter()
    assert list(datastream.diff(files, objects, compare=compare)) == []  # type: ignore[arg-type]
    return time.perf_counter() - start


def _rows(effort: Effort) -> Figure:
    from tests.servers.postgres import Server

    rows, number = effort.of(ROWS), count()
    few = effort._replace(rounds=max(1, effort.rounds // 4))
    with (
        Server(fsync="on").start() as server,
        TemporaryDirectory(prefix="datastream-bench-") as folder,
        datastream.open(f"sqlite:{folder}/a.db", create=True) as a,
        psycopg.connect(server.url, autocommit=True) as connection,
    ):
        a.put_many({f"key/{n}": b"%064d" % n for n in range(rows)})

        def ours() -> float:
            table = f"mirrored{next(number)}"
            with datastream.open(f"{server.url}&table={table}", create=True) as b:
                start = time.perf_counter()
                with datastream.mirror(a, b, place=f"{folder}/place{table}") as running:
                    assert running.ready(TIMEOUT)
                    return time.perf_counter() - start

        def floor() -> float:
            table = f"bare{next(number)}"
            connection.execute(f"CREATE TABLE {table} {TABLE}")
            start = time.perf_counter()
            _by_hand(f"{folder}/a.db", connection, table)
            return time.perf_counter() - start

        return noted(
            take_turns(few, ours, floor, warm_up=False).figure(
                f"first mirror of {rows:,} rows, sqlite to postgres",
                "s",
                "≤ 3 × SELECT and COPY",
                lambda ratio: ratio <= 3,
            ),
            "the floor has no triggers, and compares nothing",
        )


def _by_hand(path: str, connection: psycopg.Connection[tuple[object, ...]], table: str) -> None:
    with closing(sqlite3.connect(path)) as database, connection.cursor() as cursor:
        found = database.execute("SELECT key, value, value_type FROM data")
        with cursor.copy(f"COPY {table} (key, value, value_type) FROM STDIN") as copy:
            for row in found:
                copy.write_row(row)


def _live(effort: Effort) -> Figure:
    commits = effort.of(COMMITS)
    watched, mirrored = Arrivals(), Arrivals()
    with TemporaryDirectory(prefix="datastream-bench-") as folder:
        path = f"{folder}/a.db"
        with (
            datastream.open(f"sqlite:{path}", create=True) as a,
            datastream.open(f"sqlite:{folder}/b.db", create=True) as b,
            datastream.mirror(a, b) as running,
        ):
            a["key"] = b"0"
            assert running.flush(TIMEOUT)
            for store, arrivals in ((a, watched), (b, mirrored)):
                watch = store.watch("key", initial=False)
                watch.subscribe(lambda entry, into=arrivals: into.note(entry.value))  # type: ignore[misc]
            with Child("sqlite_writer", path) as writer:
                newest, took = writer.ask("write", commits, PAUSE)
            floor = median(watched.until(newest)) * 1000
            ours = median(mirrored.until(newest)) * 1000
    commit = median(took) * 1000
    return Figure(
        name="change on sqlite: until it is in the mirrored sqlite, p50",
        unit="ms",
        ours=ours,
        floor=floor,
        ratio=ours / floor,
        wanted="≤ watch + 2 × bare commit",
        ok=ours <= floor + 2 * commit,
        note=f"a bare commit took {commit:.2f} ms, the floor is the watch of the same commits",
    )
