"""Values in hand: reads of a view and a binding, changes, memory, and how soon a view is there."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import BaseModel

import datastream
from datastream import Entry, Selection, codecs
from datastream._view.cache import CacheFile
from datastream._view.state import ViewState
from datastream._view.write_behind import WriteBehind
from datastream._watch.dispatcher import Dispatcher
from tests.bench.child import Child
from tests.bench.figures import Effort, Figure, Rounds, noted, take_turns
from tests.bench.processes.many_keys import SELECT

READS = 200_000
CHANGES = 500
KEYS = 100_000


class _Settings(BaseModel):
    limit: int = 10


settings: Any = None
plain = _Settings()


def view_reads(effort: Effort) -> Iterator[Figure]:
    """`view[key]` among many keys, in a loop."""
    reads = effort.of(READS)
    with datastream.open("memory:") as store:
        store.put_many({f"k/{n}": float(n) for n in range(1_000)})
        view = store.view("k/")
        copy = view.copy()
        rounds = take_turns(
            effort, lambda: _look_up_time(view, reads), lambda: _look_up_time(copy, reads)
        )
    yield _per(rounds, reads).figure("view[key]", "ns", "≤ 3 × a dict", lambda r: r <= 3)


def settings_reads(effort: Effort) -> Iterator[Figure]:
    """``settings.current.limit``, beside ``plain.limit``, both of module globals."""
    global settings
    reads = effort.of(READS)
    with datastream.open("memory:") as store:
        settings = store.bind(_Settings, "app/")
        rounds = take_turns(effort, lambda: _bound_time(reads), lambda: _plain_time(reads))
    yield _per(rounds, reads).figure(
        "settings.current.field", "ns", "≤ 2 × a global's attribute", lambda r: r <= 2
    )


def view_changes(effort: Effort) -> Iterator[Figure]:
    """From a put until a view has the value, among 100,000 keys; until a subscriber has it."""
    changes = effort.of(CHANGES)
    with datastream.open("memory:") as viewed, datastream.open("memory:") as watched:
        for store in (viewed, watched):
            store.put_many({f"k/{n}": float(n) for n in range(KEYS)})
        view, got = viewed.view("k/"), {"k/7": 0.0}

        def take(entry: Entry) -> None:
            got[entry.key] = entry.decode()

        subscription = watched.watch("k/", initial=False).subscribe(take)
        rounds = take_turns(
            effort,
            lambda: _seen_after(viewed, view, changes),
            lambda: _seen_after(watched, got, changes),
        )
        subscription.dispose()
    yield _per(rounds, changes, 1e6).figure(
        f"put until view[key] is new, {KEYS:,} keys",
        "µs",
        "≤ 1.1 × until a subscriber has it",
        lambda r: r <= 1.1,
    )


def view_memory(effort: Effort) -> Iterator[Figure]:
    """Resident memory, each in a process of its own."""
    with TemporaryDirectory(prefix="datastream-bench-") as folder:
        path = _filled(folder)
        ours, floor = (_asked(name, path) for name in ("view", "dict"))
    held, resident = ours[0] / floor[0], ours[1] / floor[1]
    yield Figure(
        name=f"memory of a view of {KEYS:,} float keys",
        unit="B/key",
        ours=ours[0],
        floor=floor[0],
        ratio=held,
        wanted="≤ 3 × a dict",
        ok=held <= 3,
        note="held by Python objects",
    )
    yield Figure(
        name="the same, resident once it is ready",
        unit="B/key",
        ours=ours[1],
        floor=floor[1],
        ratio=resident,
        wanted="told only: with what reading the first state has left free",
        ok=True,
    )


def view_ready(effort: Effort) -> Iterator[Figure]:
    """A new store and a view on it; a new connection, one SELECT and the same decoding."""
    with TemporaryDirectory(prefix="datastream-bench-") as folder:
        path = _filled(folder)
        rounds = take_turns(effort, lambda: _ready_time(path), lambda: _select_time(path))
    yield rounds.figure(
        f"view of {KEYS:,} keys ready, from sqlite:", "s", "≤ 1.5 × a SELECT", lambda r: r <= 1.5
    )


def view_cache(effort: Effort) -> Iterator[Figure]:
    """A view begins with its cache, before any backend is asked; `json` reads the same rows."""
    with TemporaryDirectory(prefix="datastream-bench-") as folder:
        path, cache, rows = _filled(folder), Path(folder, "cache"), Path(folder, "rows.json")
        with datastream.open(f"sqlite:{path}") as store:
            store.view(cache=cache)
            store.flush()
            entries = store.snapshot()
            file = CacheFile(cache, store.name, Selection())
        rows.write_text(
            json.dumps(
                {k: [e.value.decode(), e.value_type, e.revision] for k, e in entries.items()}
            )
        )

        def ours() -> float:
            start = time.perf_counter()
            state = ViewState(None, print, keeps_rows=True)
            WriteBehind(file, state, Dispatcher("unused")).restore()
            took = time.perf_counter() - start
            assert len(state.values) == KEYS
            return took

        def floor() -> float:
            start = time.perf_counter()
            found = json.loads(rows.read_bytes())
            took = time.perf_counter() - start
            assert len(found) == KEYS
            return took

        rounds = take_turns(effort, ours, floor)
    yield noted(
        rounds.figure(f"start from a cache of {KEYS:,} keys", "s", "≤ 2 × json", lambda r: r <= 2),
        "checked and decoded",
    )


def _per(rounds: Rounds, number: int, scale: float = 1e9) -> Rounds:
    """Seconds of `number` as nanoseconds of one, or as `scale` says."""
    return Rounds(
        [taken / number * scale for taken in rounds.ours],
        [taken / number * scale for taken in rounds.floor],
    )


def _look_up_time(mapping: Mapping[str, float], reads: int) -> float:
    start = time.perf_counter()
    for _ in range(reads):
        mapping["k/500"]
    return time.perf_counter() - start


def _bound_time(reads: int) -> float:
    start = time.perf_counter()
    for _ in range(reads):
        settings.current.limit  # noqa: B018
    return time.perf_counter() - start


def _plain_time(reads: int) -> float:
    start = time.perf_counter()
    for _ in range(reads):
        plain.limit  # noqa: B018
    return time.perf_counter() - start


def _seen_after(store: datastream.Store, mapping: Mapping[str, float], changes: int) -> float:
    """Put `changes` new values, and wait for each in the same way."""
    took = 0.0
    for _ in range(changes):
        value = mapping["k/7"] + 1.0
        start = time.perf_counter()
        store.put("k/7", value)
        while mapping["k/7"] != value:
            time.sleep(0)
        took += time.perf_counter() - start
    return took


def _filled(folder: str) -> str:
    path = str(Path(folder, "many.db"))
    with datastream.open(f"sqlite:{path}") as store:
        store.put_many({f"key/{n:06}": n * 1.1 for n in range(KEYS)})
    return path


def _asked(name: str, path: str) -> list[float]:
    with Child("many_keys") as child:
        return [found / KEYS for found in child.ask(name, path)]


def _ready_time(path: str) -> float:
    start = time.perf_counter()
    with datastream.open(f"sqlite:{path}") as store:
        view = store.view()
        assert len(view) == KEYS
        return time.perf_counter() - start


def _select_time(path: str) -> float:
    start = time.perf_counter()
    connection = sqlite3.connect(path)
    rows = connection.execute(SELECT)
    found = {key: codecs.decode(value, kind, key=key) for key, value, kind in rows}
    took = time.perf_counter() - start
    connection.close()
    assert len(found) == KEYS
    return took
