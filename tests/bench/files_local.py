"""A local directory of 10,000 files: reading it, watching it, writing to it."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import datastream
from tests.bench.child import Child
from tests.bench.figures import Effort, Figure, take_turns
from tests.bench.watching import idle_cpu, latencies

FOLDERS, EACH = 100, 100
CONTENT = b"x" * 64
KEY = "folder-50/file-50.txt"
CHANGES, PAUSE = 300, 0.06
"""How often the file is replaced, and seconds between."""
IDLE = 5.0
PUTS = 100
WANTED = {50: 50.0, 99: 50.0}
"""Milliseconds by percentile."""
RACY = 0.1
"""Seconds after which a time stamp tells that a file has not changed since."""


@contextmanager
def many_files() -> Iterator[Path]:
    """10,000 files in 100 directories."""
    with TemporaryDirectory(prefix="datastream-bench-") as folder:
        for number in range(FOLDERS):
            holder = Path(folder, f"folder-{number}")
            holder.mkdir()
            for file in range(EACH):
                (holder / f"file-{file}.txt").write_bytes(CONTENT)
        time.sleep(RACY)
        yield Path(folder)


def snapshot_files(effort: Effort) -> Iterator[Figure]:
    """The first snapshot of a store just opened."""
    with many_files() as folder:
        rounds = take_turns(effort, lambda: _first_snapshot(folder), lambda: _read_plainly(folder))
    yield rounds.figure(
        "first snapshot of 10,000 files",
        "s",
        "≤ 3 × os.scandir and read",
        lambda ratio: ratio <= 3,
    )


def watch_files(effort: Effort) -> Iterator[Figure]:
    """A writer in one process, a watcher of all 10,000 files in another."""
    with many_files() as folder, Child("watcher", f"file:{folder}", KEY) as watcher:
        watcher.ask("forget")
        with Child("files_writer", str(folder / KEY)) as writer:
            newest, took = writer.ask("write", effort.of(CHANGES), PAUSE)
        seen = watcher.ask("until", newest)
        # The look at the whole that follows the last change is not what idling costs.
        time.sleep(4)
        idle = idle_cpu("the same watcher of files when idle", watcher, IDLE * effort.share)
    name = "file replaced by another process until seen"
    yield from latencies(name, seen, took, WANTED, "writing and renaming")
    yield idle


def put_files(effort: Effort) -> Iterator[Figure]:
    """What a durable put costs, beside the same calls made by hand."""
    puts = effort.of(PUTS)
    with TemporaryDirectory(prefix="datastream-bench-") as folder:
        with datastream.open(f"file:{folder}") as store:

            def ours() -> None:
                store.put("key", secrets.token_bytes(64))

            rounds = take_turns(
                effort,
                lambda: _per_second(puts, ours),
                lambda: _per_second(puts, lambda: _put_plainly(Path(folder))),
            )
    yield rounds.figure(
        "put on file:", "/s", "told only: write, fsync, rename, fsync", lambda _: True
    )


def _first_snapshot(folder: Path) -> float:
    with datastream.open(f"file:{folder}") as store:
        start = time.perf_counter()
        entries = store.snapshot()
        took = time.perf_counter() - start
        assert sum(len(entry.value) for entry in entries.values()) == 64 * FOLDERS * EACH
    return took


def _read_plainly(folder: Path) -> float:
    start, size, folders = time.perf_counter(), 0, [str(folder)]
    while folders:
        with os.scandir(folders.pop()) as items:
            for item in items:
                if item.is_dir():
                    folders.append(item.path)
                else:
                    with open(item.path, "rb") as file:
                        size += len(file.read())
    took = time.perf_counter() - start
    assert size == 64 * FOLDERS * EACH
    return took


def _put_plainly(folder: Path) -> None:
    draft = folder / ".draft"
    with draft.open("wb") as file:
        file.write(secrets.token_bytes(64))
        file.flush()
        os.fsync(file.fileno())
    draft.rename(folder / "plain")
    handle = os.open(folder, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def _per_second(times: int, action: Callable[[], None]) -> float:
    start = time.perf_counter()
    for _ in range(times):
        action()
    return times / (time.perf_counter() - start)
