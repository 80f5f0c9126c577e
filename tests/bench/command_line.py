"""How soon a command answers, and how soon it ends at Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import datastream
from tests.bench.figures import Effort, Figure, take_turns

MORE = 150.0
"""Milliseconds that ours may take beyond the two libraries alone."""
FLOOR = ("-c", "import click, reactivex")
MOST = 200.0
"""Milliseconds from Ctrl-C to the end of the process."""
ROWS = 30_000
IDLE = "import time; print('ready', flush=True); time.sleep(60)"


def start_up(effort: Effort) -> Iterator[Figure]:
    """Whole processes, from the start of the interpreter to its end, all of it compiled."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:{folder}/store.db"
        with datastream.open(url) as store:
            store["fx/USD"] = 1.0853
        ours = partial(_run, folder, "-m", "datastream.cli", "get", url, "fx/USD")
        rounds = take_turns(effort, ours, partial(_run, folder, *FLOOR))
    wanted = f"≤ floor + {MORE:g} ms"
    figure = rounds.figure("datastream get, sqlite, new process", "ms", wanted, lambda _: True)
    assert figure.floor is not None
    note = "floor: python -c 'import click, reactivex'"
    yield replace(figure, ok=figure.ours - figure.floor <= MORE, note=note)


def ctrl_c(effort: Effort) -> Iterator[Figure]:
    """With most of 30,000 lines still to be printed, and a reader that has stopped reading."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:{folder}/store.db"
        with datastream.open(url) as store:
            store.put_many({f"key/{number:05}": "x" * 50 for number in range(effort.of(ROWS))})
        watch = partial(_interrupt, "-m", "datastream.cli", "watch", url)
        rounds = take_turns(effort, watch, partial(_interrupt, "-c", IDLE))
    figure = rounds.figure("Ctrl-C to the end of watch", "ms", f"≤ {MOST:g} ms", lambda _: True)
    yield replace(figure, ok=figure.ours <= MOST, note="floor: a Python process that sleeps")


def _interrupt(*arguments: str) -> float:
    # A shell that runs this in the background has it, and so its children, ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with process:
        assert process.stdout is not None
        process.stdout.read(1)
        start = time.perf_counter()
        process.send_signal(signal.SIGINT)
        process.wait(60)
        took = time.perf_counter() - start
    signal.signal(signal.SIGINT, before)
    return took * 1000


def _run(compiled: str, *arguments: str) -> float:
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=60,
        env=environment,
    )
    return (time.perf_counter() - start) * 1000
