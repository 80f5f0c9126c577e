"""Reading and writing on ``sqlite:``, beside plain `sqlite3` and the same rows."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import datastream
from tests.bench.figures import Effort, Figure, take_turns

PUTS = 3_000
GETS = 5_000
MANY = 10_000
KEYS = 100
"""Different keys among the rows that are put one by one."""

CREATE = (
    "CREATE TABLE data (key TEXT PRIMARY KEY NOT NULL, value, value_type TEXT, "
    "updated_at TIMESTAMP)"
)
UPSERT = (
    "INSERT INTO data (key, value, value_type, updated_at) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (key) DO UPDATE SET value = excluded.value, value_type = excluded.value_type, "
    "updated_at = excluded.updated_at"
)

Row = tuple[str, bytes, str, str]
Measure = Callable[[Path, Sequence[Row]], float]


def connect(path: Path) -> sqlite3.Connection:
    """A plain connection, set up for durability as a store is."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=wal")
    connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def put_sqlite(effort: Effort) -> Iterator[Figure]:
    """One commit a row."""
    rows = [_row(f"key/{n % KEYS}", n) for n in range(effort.of(PUTS))]
    yield _compare(effort, rows, _store_puts, _plain_upserts, "put on sqlite:", 0.35)


def put_watched_sqlite(effort: Effort) -> Iterator[Figure]:
    """One commit a row, while another key is watched."""
    rows = [_row(f"key/{n % KEYS}", n) for n in range(effort.of(PUTS))]
    name = "put on sqlite:, another key is watched"
    yield _compare(effort, rows, _watched_puts, _plain_upserts, name, 0.2)


def get_sqlite(effort: Effort) -> Iterator[Figure]:
    """One row at a time, all of them there."""
    rows = [_row(f"key/{n}", n) for n in range(KEYS)] * (effort.of(GETS) // KEYS)
    yield _compare(effort, rows, _store_gets, _plain_selects, "store[key] on sqlite:", 0.4)


def put_many_sqlite(effort: Effort) -> Iterator[Figure]:
    """New rows, all in one commit."""
    rows = [_row(f"key/{n}", n) for n in range(MANY)]
    name = f"put_many of {MANY:,} rows on sqlite:"
    yield _compare(effort, rows, _store_put_many, _plain_executemany, name, 0.25)


def _compare(
    effort: Effort, rows: Sequence[Row], ours: Measure, floor: Measure, name: str, share: float
) -> Figure:
    files = count()
    with TemporaryDirectory(prefix="datastream-bench-") as folder:

        def on_a_new_file(measure: Measure) -> Callable[[], float]:
            return lambda: measure(Path(folder, f"{next(files)}.db"), rows)

        rounds = take_turns(effort, on_a_new_file(ours), on_a_new_file(floor))
    return rounds.figure(name, "/s", f"≥ {share} of plain sqlite3", lambda r: r >= share)


def _row(key: str, number: int) -> Row:
    return key, b"%064d" % number, "bytes", "2026-01-01 00:00:00.000000+00:00"


def _store_puts(path: Path, rows: Sequence[Row]) -> float:
    with datastream.open(f"sqlite:{path}") as store:
        start = time.perf_counter()
        for key, value, _, _ in rows:
            store.put(key, value)
        return len(rows) / (time.perf_counter() - start)


def _watched_puts(path: Path, rows: Sequence[Row]) -> float:
    with datastream.open(f"sqlite:{path}") as store:
        store.put("another", 1)
        store.watch("another").subscribe(lambda entry: None)
        start = time.perf_counter()
        for key, value, _, _ in rows:
            store.put(key, value)
        return len(rows) / (time.perf_counter() - start)


def _store_gets(path: Path, rows: Sequence[Row]) -> float:
    with datastream.open(f"sqlite:{path}") as store:
        store.put_many({key: value for key, value, _, _ in rows})
        start = time.perf_counter()
        for key, _, _, _ in rows:
            store[key]
        return len(rows) / (time.perf_counter() - start)


def _store_put_many(path: Path, rows: Sequence[Row]) -> float:
    values = {key: value for key, value, _, _ in rows}
    with datastream.open(f"sqlite:{path}") as store:
        start = time.perf_counter()
        store.put_many(values)
        return len(rows) / (time.perf_counter() - start)


def _plain_upserts(path: Path, rows: Sequence[Row]) -> float:
    connection = connect(path)
    connection.execute(CREATE)
    start = time.perf_counter()
    for row in rows:
        connection.execute(UPSERT, row)
    took = time.perf_counter() - start
    connection.close()
    return len(rows) / took


def _plain_selects(path: Path, rows: Sequence[Row]) -> float:
    connection = connect(path)
    connection.execute(CREATE)
    connection.executemany(UPSERT, rows)
    select = "SELECT key, value, value_type, updated_at FROM data WHERE key = ?"
    start = time.perf_counter()
    for key, _, _, _ in rows:
        connection.execute(select, (key,)).fetchone()
    took = time.perf_counter() - start
    connection.close()
    return len(rows) / took


def _plain_executemany(path: Path, rows: Sequence[Row]) -> float:
    connection = connect(path)
    connection.execute(CREATE)
    start = time.perf_counter()
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(UPSERT, rows)
    connection.execute("COMMIT")
    took = time.perf_counter() - start
    connection.close()
    return len(rows) / took
