"""``serve``: a store for other processes, over gRPC."""

from __future__ import annotations

import click

from datastream.cli._exit import exit_on_sigterm
from datastream.cli._log import log_calls
from datastream.cli._open import load_grpc, open_store
from datastream.cli._output import emit
from datastream.cli._status import say_status

GRACE = 1.0
"""Seconds that running calls get to end; watches never end by themselves."""


@click.command()
@click.argument("url")
@click.option("--address", default="127.0.0.1:8080", show_default=True, help="Port 0: a free one.")
@click.option("-v", "--verbose", is_flag=True, help="Log every call to stderr.")
def serve(url: str, address: str, verbose: bool) -> None:
    """Serve a store over gRPC until Ctrl-C or SIGTERM.

    Others open it as grpc://HOST:PORT.
    """
    if verbose:
        log_calls()
    transport = load_grpc()
    with open_store(url, watched=True) as store, store.status.subscribe(say_status):
        server = transport.serve(store, address)
        try:
            exit_on_sigterm(0)
            emit(f"serving {store.name} on {server.address}")
            server.wait()
        finally:
            server.stop(grace=GRACE)
