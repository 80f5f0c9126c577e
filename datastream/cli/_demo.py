"""``demo``: SQLite, gRPC and a second process, with real exchange rates, in ten seconds."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import click

import datastream
from datastream import DatastreamError, Entry, Store
from datastream.cli._exit import TERMINATED, exit_on_sigterm
from datastream.cli._interrupt import clean_up_for
from datastream.cli._open import load_grpc
from datastream.cli._rates import SOURCE, Day, load_rates

CLIENT = "datastream.cli._demo_client"
PACE_TERMINAL, PACE_PIPE = 0.1, 0.02
LONGEST_PACE = 3600
"""Seconds; what is no number is not less either."""
CLEAN_UP = 10.0
"""Seconds after Ctrl-C for ending the client and removing the file."""

THREE_LINES = """\
The same in three lines of Python:

    import datastream
    store = datastream.open("sqlite:rates.db")    # or "grpc://127.0.0.1:8080"
    store.watch("fx/").subscribe(print)
"""


@click.command()
@click.option(
    "--pace",
    type=click.FloatRange(min=0),
    help=f"Seconds for one day of rates [default: {PACE_TERMINAL}, on a pipe {PACE_PIPE}].",
)
def demo(pace: float | None) -> None:
    """Replay four months of exchange rates to a client in another process.

    They are written to SQLite, watched there, and sent on over gRPC.
    """
    if pace is not None and not pace <= LONGEST_PACE:
        raise click.UsageError(f"--pace takes {LONGEST_PACE} seconds at most")
    if pace is None:
        pace = PACE_TERMINAL if sys.stdout.isatty() else PACE_PIPE
    transport = load_grpc()
    days = load_rates()
    exit_on_sigterm(TERMINATED)
    clean_up_for(CLEAN_UP)
    with _served_store(transport) as (store, address):
        _introduce(days, address)
        with _client(f"grpc://{address}") as client:
            _await_ready(store, client)
            written = _replay(store, days, pace, client)
            store["demo/done"] = True
            report = _report(store, client)
    _summarise(len(days), written, report)


@contextlib.contextmanager
def _served_store(transport: Any) -> Iterator[tuple[Store, str]]:
    with (
        tempfile.TemporaryDirectory(prefix="datastream-demo-") as folder,
        datastream.open(f"sqlite:{folder}/rates.db") as store,
    ):
        server = transport.serve(store, "127.0.0.1:0")
        try:
            yield store, server.address
        finally:
            server.stop(grace=0)


@contextlib.contextmanager
def _client(url: str) -> Iterator[subprocess.Popen[bytes]]:
    # In a session of its own, so that Ctrl-C reaches this process only, which then ends it.
    client = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", CLIENT, url], start_new_session=True
    )
    try:
        yield client
    finally:
        client.terminate()
        client.wait()


def _await_ready(store: Store, client: subprocess.Popen[bytes]) -> None:
    ready = threading.Event()
    with store.watch("demo/ready").subscribe(lambda entry: ready.set()):
        while not ready.wait(0.05) and client.poll() is None:
            pass


def _replay(store: Store, days: Sequence[Day], pace: float, client: subprocess.Popen[bytes]) -> int:
    """Write day after day while the client lives; returns how many rates that changed."""
    revisions: dict[str, str] = {}
    written = 0
    for date, rates in days:
        values = {f"fx/{currency}": rate for currency, rate in rates.items()}
        stamp = {"date": date, "at": time.time()}
        stored = store.put_many({**values, "demo/day": stamp})
        written += _count_changes(stored, revisions)
        if _ended(client, pace):
            break
    return written


def _count_changes(stored: Sequence[Entry], revisions: dict[str, str]) -> int:
    """How many rates are new; one that stays the same keeps its revision and emits nothing."""
    rates = {entry.key: entry.revision for entry in stored if entry.key.startswith("fx/")}
    changed = sum(revisions.get(key) != revision for key, revision in rates.items())
    revisions.update(rates)
    return changed


def _ended(client: subprocess.Popen[bytes], within: float) -> bool:
    try:
        client.wait(within)
    except subprocess.TimeoutExpired:
        return False
    return True


def _report(store: Store, client: subprocess.Popen[bytes]) -> dict[str, Any]:
    code = client.wait()
    if code:
        raise DatastreamError(f"the demo's client failed, exit code {code}")
    report: dict[str, Any] | None = store.get("demo/report")
    if report is None:
        # It ends like that only when nobody reads what it prints: then nor will this one's words.
        raise BrokenPipeError
    return report


def _introduce(days: Sequence[Day], address: str) -> None:
    click.echo(f"Euro reference rates, {days[0].date} to {days[-1].date}")
    click.echo(f"Source: {SOURCE}")
    click.echo(f"this process ▶ SQLite file ▶ gRPC on {address} ▶ client process")


def _summarise(days: int, written: int, report: dict[str, Any]) -> None:
    delivered = report["delivered"]
    click.echo(
        f"\n{days} days: {written} updates written to SQLite, {delivered} delivered over gRPC.\n"
        f"From the call of put_many to the client's callback: "
        f"p50 {report['p50_ms']:.1f} ms, p99 {report['p99_ms']:.1f} ms."
    )
    if delivered < written:
        click.echo("The client was slower than the writer: it got the newest rates, not every one.")
    click.echo(f"\n{THREE_LINES}", nl=False)
