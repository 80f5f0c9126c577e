"""``python -m tests.bench``: measure, and show a table or JSON."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Callable, Iterator

import click
from rich.console import Console

from tests.bench.between import between
from tests.bench.command_line import ctrl_c, start_up
from tests.bench.consuming import consume
from tests.bench.event_loop import event_loop
from tests.bench.figures import QUICK, THOROUGH, Effort, Figure
from tests.bench.files_local import put_files, snapshot_files, watch_files
from tests.bench.frames import frames
from tests.bench.git_files import git_files, git_watch
from tests.bench.grpc_bulk import grpc_bulk
from tests.bench.grpc_calls import grpc_latency, grpc_pushes
from tests.bench.grpc_fanout import grpc_fanout
from tests.bench.grpc_scale import grpc_crowd, grpc_lag, grpc_streams
from tests.bench.grpc_secure import grpc_tls, grpc_watched
from tests.bench.grpc_state import grpc_state
from tests.bench.imports import imports
from tests.bench.in_process import put_memory, put_memory_crowd
from tests.bench.matching import hostile_pattern, put_patterns
from tests.bench.memory import memory
from tests.bench.nats import nats_bucket
from tests.bench.nats_crowd import nats_crowd
from tests.bench.overlays import overlay_changes
from tests.bench.peers import peers
from tests.bench.postgres import postgres, postgres_idle
from tests.bench.reads import get_in_threads, get_memory
from tests.bench.responsive import endless_news, slow_polls
from tests.bench.s3 import s3
from tests.bench.sqlite_rows import (
    get_sqlite,
    put_many_sqlite,
    put_sqlite,
    put_watched_sqlite,
)
from tests.bench.sqlite_watch import watch_sqlite
from tests.bench.table import as_json, as_markdown, print_table
from tests.bench.views import (
    settings_reads,
    view_cache,
    view_changes,
    view_memory,
    view_reads,
    view_ready,
)

MEASUREMENTS: dict[str, Callable[[Effort], Iterator[Figure]]] = {
    "get-memory": get_memory,
    "get-sqlite": get_sqlite,
    "get-threads": get_in_threads,
    "view-reads": view_reads,
    "settings-reads": settings_reads,
    "view-changes": view_changes,
    "view-memory": view_memory,
    "view-ready": view_ready,
    "view-cache": view_cache,
    "frames": frames,
    "slow-polls": slow_polls,
    "endless-news": endless_news,
    "event-loop": event_loop,
    "put-memory": put_memory,
    "put-memory-crowd": put_memory_crowd,
    "put-patterns": put_patterns,
    "hostile-pattern": hostile_pattern,
    "overlay": overlay_changes,
    "consume": consume,
    "put-sqlite": put_sqlite,
    "put-watched-sqlite": put_watched_sqlite,
    "put-many-sqlite": put_many_sqlite,
    "watch-sqlite": watch_sqlite,
    "snapshot-files": snapshot_files,
    "watch-files": watch_files,
    "put-files": put_files,
    "postgres": postgres,
    "postgres-idle": postgres_idle,
    "s3": s3,
    "nats": nats_bucket,
    "nats-crowd": nats_crowd,
    "git-files": git_files,
    "watch-git": git_watch,
    "grpc-latency": grpc_latency,
    "grpc-pushes": grpc_pushes,
    "grpc-bulk": grpc_bulk,
    "grpc-watched": grpc_watched,
    "grpc-tls": grpc_tls,
    "grpc-state": grpc_state,
    "grpc-fanout": grpc_fanout,
    "grpc-crowd": grpc_crowd,
    "grpc-streams": grpc_streams,
    "grpc-lag": grpc_lag,
    "between": between,
    "memory": memory,
    "import": imports,
    "start-up": start_up,
    "ctrl-c": ctrl_c,
}


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(MEASUREMENTS)), help="Repeatable.")
@click.option("--quick", is_flag=True, help="A smoke test: fewer and shorter rounds.")
@click.option("--peers", "beside_peers", is_flag=True, help="Beside etcd and NATS, and no more.")
@click.option("--json", "json_", is_flag=True, help="JSON instead of a table.")
@click.option("--markdown", is_flag=True, help="The table of docs/performance.md.")
def main(
    only: tuple[str, ...], quick: bool, beside_peers: bool, json_: bool, markdown: bool
) -> None:
    """Measure datastream, each figure beside its floor."""
    # Ended from outside, children and temporary files go too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    progress = Console(stderr=True)
    figures: list[Figure] = []
    effort = QUICK if quick else THOROUGH
    if beside_peers:
        figures += peers(effort, progress.print)
    with progress.status("") as status:
        for name in only or (() if beside_peers else MEASUREMENTS):
            status.update(name)
            # What earlier figures left behind is nothing the collector should look through later.
            gc.collect()
            gc.freeze()
            figures += MEASUREMENTS[name](effort)
    if json_:
        print(as_json(figures))
    elif markdown:
        print(as_markdown(figures))
    else:
        print_table(figures, Console())


if __name__ == "__main__":
    main(prog_name="python -m tests.bench")
