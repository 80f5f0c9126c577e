"""``serve``: a store for other processes, over gRPC."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import click

from datastream.cli._exit import exit_on_sigterm
from datastream.cli._interrupt import clean_up_for
from datastream.cli._log import log_calls
from datastream.cli._open import load_grpc, open_existing
from datastream.cli._output import emit
from datastream.cli._status import say_status

PORT = 8080
"""Of addresses that name none."""
HEARTBEAT_HELP = "Seconds of silence after which a client is asked whether it is there."
GRACE = 1.0
"""Seconds that running calls get to end; watches never end by themselves."""
CLEAN_UP = 10.0
"""Seconds for all that after Ctrl-C, and for closing the store."""


@click.command()
@click.argument("url")
@click.option(
    "--address",
    default=f"127.0.0.1:{PORT}",
    show_default=True,
    help=f"HOST:PORT, port 0 for a free one, or unix:PATH; HOST alone has port {PORT}.",
)
@click.option("--tls-cert", metavar="FILE", help="Certificate for TLS, in PEM.")
@click.option("--tls-key", metavar="FILE", help="Its private key.")
@click.option("--client-ca", metavar="FILE", help="Whose certificates clients have to show.")
@click.option("--token-file", metavar="FILE", help="Bearer tokens, one a line.")
@click.option("--rules", metavar="FILE", help="Who may read and write what: TOML, YAML, JSON, URL.")
@click.option("--read-only", is_flag=True, help="Refuse every write.")
@click.option("--insecure", is_flag=True, help="Serve other machines without TLS and tokens, too.")
@click.option("--heartbeat", type=float, default=20.0, show_default=True, help=HEARTBEAT_HELP)
@click.option("-v", "--verbose", is_flag=True, help="Log every call to stderr.")
def serve(
    url: str,
    *,
    address: str,
    tls_cert: str | None,
    tls_key: str | None,
    client_ca: str | None,
    token_file: str | None,
    rules: str | None,
    read_only: bool,
    insecure: bool,
    heartbeat: float,
    verbose: bool,
) -> None:
    """Serve a store over gRPC until Ctrl-C or SIGTERM.

    Others open it as grpc://HOST:PORT, or with TLS as grpcs://HOST:PORT. To serve other machines,
    give TLS and a file of tokens or the authority of clients' certificates.
    """
    if verbose:
        log_calls()
    transport = load_grpc()
    clean_up_for(CLEAN_UP)
    with open_existing(url, watched=True) as store, store.status.subscribe(say_status):
        server = transport.serve(
            store,
            with_port(address),
            tls=_tls(transport, tls_cert, tls_key, client_ca),
            tokens=token_file,
            authorize=rules,
            read_only=read_only,
            insecure=insecure,
            heartbeat=heartbeat,
        )
        try:
            exit_on_sigterm(0)
            emit(f"serving {store.name} on {server.address}")
            server.wait()
        finally:
            server.stop(grace=GRACE)


def with_port(address: str) -> str:
    """`address`, with the default port if it has none."""
    if address.startswith("unix:"):
        return address
    if address.count(":") > 1 and not address.startswith("["):
        address = f"[{address}]"
    has_port = ":" in address.rpartition("]")[2]
    return address if has_port else f"{address}:{PORT}"


def _tls(transport: ModuleType, certificate: str | None, key: str | None, roots: str | None) -> Any:
    if certificate and key:
        return transport.Tls(certificate, key, roots)
    if certificate or key or roots:
        raise click.UsageError("TLS needs both --tls-cert and --tls-key")
    return None
