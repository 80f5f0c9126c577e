"""``postgresql:`` beside bare psycopg doing the same on a table without triggers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from statistics import median
from typing import Any

import psycopg

import datastream
from tests.bench.child import Child
from tests.bench.figures import Effort, Figure, noted, take_turns

PUTS = 1_000
KEYS = 100
ROWS = 100_000
TOGETHER = 1_000
"""Rows of one transaction, which have one time in common."""
COMMITS, PAUSE = 40, 0.01
"""Commits a round, and seconds between them."""
IDLE = 70.0
"""Seconds to watch a table that nobody writes."""

TABLE = "(key text PRIMARY KEY, value bytea, value_type text, updated_at timestamptz)"
UPSERT = (
    "INSERT INTO bare VALUES (%s, %s, %s, now()) ON CONFLICT (key) DO UPDATE SET value = "
    "excluded.value, value_type = excluded.value_type, updated_at = excluded.updated_at"
)


@contextmanager
def _server(**settings: str) -> Iterator[tuple[Any, psycopg.Connection[Any]]]:
    """One that flushes every commit to the disk, as servers do."""
    from tests.servers.postgres import Server

    with Server(fsync="on", **settings).start() as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(f"CREATE TABLE bare {TABLE}; CREATE TABLE data {TABLE}")
            yield server, connection


def postgres(effort: Effort) -> Iterator[Figure]:
    """Everything but waiting."""
    with _server() as (server, connection), datastream.open(server.url) as store:
        yield _put(effort, store, connection)
        yield _copy(effort, connection)
        yield _snapshot(effort, store, connection)
        yield _latency(effort, server.url)


def postgres_idle(effort: Effort) -> Iterator[Figure]:
    """Counted by the server."""
    seconds = IDLE if effort.share == 1 else 5.0
    with _server(log_statement="all") as (server, _):
        with datastream.open(server.url) as store:
            store.watch().subscribe(lambda _: None)
            store["key"] = 1
            time.sleep(2.0)
            before = _statements(server)
            time.sleep(seconds)
            asked = _statements(server) - before
    yield Figure(
        name=f"queries of an idle watcher on postgresql: in {seconds:g} s",
        unit="queries",
        ours=asked,
        # A look falls into every minute and a bit.
        wanted="≤ 1 a minute, and one",
        ok=asked <= seconds // 60 + 1,
    )


def _statements(server: Any) -> int:
    text = (server.folder / "log").read_text()
    return text.count("LOG:  statement:") + text.count("LOG:  execute ")


def _put(effort: Effort, store: datastream.Store, connection: psycopg.Connection[Any]) -> Figure:
    number = count()

    def ours() -> float:
        return _rate(effort, lambda n: store.put(f"key/{n % KEYS}", b"%064d" % next(number)))

    def floor() -> float:
        return _rate(
            effort,
            lambda n: connection.execute(
                UPSERT, (f"key/{n % KEYS}", b"%064d" % next(number), "bytes")
            ),
        )

    figure = take_turns(effort, ours, floor).figure(
        "put on postgresql:", "/s", "≥ 0.5 of bare psycopg", lambda ratio: ratio >= 0.5
    )
    return noted(figure, "with the triggers; the same upsert on a table without any")


def _rate(effort: Effort, put: Callable[[int], object]) -> float:
    puts = effort.of(PUTS)
    start = time.perf_counter()
    for number in range(puts):
        put(number)
    return puts / (time.perf_counter() - start)


def _copy(effort: Effort, connection: psycopg.Connection[Any]) -> Figure:
    lines = b"".join(b"key/%d\t\\\\x%s\tbytes\n" % (n, b"30" * 64) for n in range(ROWS))

    def copy(table: str) -> Callable[[], float]:
        def measure() -> float:
            # The log is cut by then; what is measured is a table in use.
            connection.execute(f"TRUNCATE {table}")
            start = time.perf_counter()
            with connection.cursor() as cursor:
                with cursor.copy(f"COPY {table} (key, value, value_type) FROM STDIN") as into:
                    into.write(lines)
            return time.perf_counter() - start

        return measure

    return take_turns(effort, copy("data"), copy("bare")).figure(
        f"COPY of {ROWS:,} rows by others", "s", "≤ 2 × without the triggers", lambda r: r <= 2
    )


def _snapshot(
    effort: Effort, store: datastream.Store, connection: psycopg.Connection[Any]
) -> Figure:
    connection.execute("TRUNCATE data")
    for start in range(0, ROWS, TOGETHER):
        connection.execute(
            "INSERT INTO data SELECT 'key/' || n, decode(lpad(n::text, 128, '0'), 'hex'), "
            "'bytes', now() FROM generate_series(%s::int, %s::int) n",
            (start, start + TOGETHER - 1),
        )
    connection.execute("VACUUM ANALYZE data")
    select = "SELECT key, value, value_type, updated_at FROM data"

    def timed(action: Callable[[], object]) -> Callable[[], float]:
        def measure() -> float:
            start = time.perf_counter()
            action()
            return time.perf_counter() - start

        return measure

    return take_turns(
        effort, timed(store.snapshot), timed(lambda: connection.execute(select).fetchall())
    ).figure(f"snapshot of {ROWS:,} rows", "s", "≤ 2 × a bare SELECT", lambda r: r <= 2)


def _latency(effort: Effort, url: str) -> Figure:
    commits = effort.of(COMMITS)
    with (
        Child("watcher", url, "stamp", "stamp") as watcher,
        Child("postgres_listener", url) as listener,
        Child("postgres_writer", url) as writer,
    ):
        # An answer means that it watches; only then may the writer begin.
        watcher.ask("forget")
        listener.ask("forget")

        def p50(how: str, reader: Child) -> Callable[[], float]:
            def measure() -> float:
                newest, _ = writer.ask(how, commits, PAUSE)
                return median(reader.ask("until", newest)) * 1000

            return measure

        rounds = take_turns(effort, p50("commit", watcher), p50("notify", listener))
    figure = rounds.figure(
        "other session's commit seen on postgresql:, p50", "ms", "≤ 1.7 × LISTEN/NOTIFY",
        lambda ratio: ratio <= 1.7,
    )  # fmt: skip
    return noted(figure, "the floor: the same upsert and a NOTIFY in one statement, bare psycopg")
