"""How soon a new process answers ``datastream get``, beside loading what it is made of."""

from __future__ import annotations

import os
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
