"""What ``import datastream`` takes and loads, in fresh interpreters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
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
    """Neither the interpreter's start nor compiling, which an installation does, is part of it."""
    with tempfile.TemporaryDirectory() as compiled:
        loaded = _run("datastream", compiled)[1]
        rounds = take_turns(
            effort,
            lambda: _run("datastream", compiled)[0],
            lambda: _run("reactivex", compiled)[0],
        )
    figure = rounds.figure("import datastream", "ms", f"≤ reactivex + {MORE:g} ms", lambda _: True)
    assert figure.floor is not None
    more = figure.ours - figure.floor
    yield replace(
        figure,
        ok=more <= MORE and not loaded,
        note=f"loads {', '.join(loaded)}" if loaded else f"loads no {', '.join(UNWANTED)}",
    )


def _run(module: str, compiled: str) -> tuple[float, list[str]]:
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}
    program = PROGRAM.format(module=module, unwanted=UNWANTED)
    output = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    ).stdout
    took, loaded = json.loads(output)
    return took, loaded
