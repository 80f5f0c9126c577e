"""What ``import datastream`` takes and loads, in fresh interpreters."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

from tests.bench.figures import Effort, Figure, take_turns

MORE = 60.0
"""Milliseconds that ours may take beyond reactivex alone."""
UNWANTED = ("grpc", "dulwich", "psycopg", "s3fs", "nats")
"""Clients of backends, to be loaded by opening one only."""

PROGRAM = """
import json, sys, time
start = time.perf_counter()
import {module}
took = time.perf_counter() - start
print(json.dumps([took * 1000, [name for name in {unwanted} if name in sys.modules]]))
"""


def imports(effort: Effort) -> Iterator[Figure]:
    """Interpreter start-up is not part of the time."""
    rounds = take_turns(effort, lambda: _run("datastream")[0], lambda: _run("reactivex")[0])
    loaded = _run("datastream")[1]
    figure = rounds.figure("import datastream", "ms", f"≤ reactivex + {MORE:g} ms", lambda _: True)
    assert figure.floor is not None
    more = figure.ours - figure.floor
    yield replace(
        figure,
        ok=more <= MORE and not loaded,
        note=f"loads {', '.join(loaded)}" if loaded else f"loads no {', '.join(UNWANTED)}",
    )


def _run(module: str) -> tuple[float, list[str]]:
    program = PROGRAM.format(module=module, unwanted=UNWANTED)
    output = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    took, loaded = json.loads(output)
    return took, loaded
