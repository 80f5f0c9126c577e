"""``ping`` and ``refresh``: questions to a server."""

from __future__ import annotations

import click

from datastream.cli._open import load_grpc
from datastream.cli._output import emit
from datastream.errors import DatastreamError, printable, shown


@click.command()
@click.argument("url")
@click.option(
    "--timeout", type=float, default=5.0, show_default=True, help="Seconds for an answer."
)
def ping(url: str, timeout: float) -> None:
    """Ask a server whether it is there, and how its store is.

    Exits with 1 if it does not answer, or if its store is not READY.
    """
    _check(url, "ping")
    found = load_grpc().ping(url, timeout=timeout)
    health = {True: "SERVING", False: "NOT_SERVING", None: "health unknown"}[found.serving]
    parts = [health, found.state or "older protocol", f"{found.seconds * 1000:.1f} ms"]
    parts += [f"version {printable(found.version)}"] if found.version else []
    parts += [printable(found.degraded)] if found.degraded and found.state else []
    emit(", ".join(parts))
    if found.error is not None:
        raise DatastreamError(str(found.error))
    if found.serving is False:
        raise DatastreamError("the server is there, and does not serve")


@click.command()
@click.argument("url")
@click.option(
    "--timeout", type=float, default=5.0, show_default=True, help="Seconds for an answer."
)
def refresh(url: str, timeout: float) -> None:
    """Have a server look at its backend now, for hooks of what changes it."""
    _check(url, "refresh")
    load_grpc().refresh(url, timeout=timeout)


def _check(url: str, command: str) -> None:
    if not url.lower().startswith(("grpc:", "grpcs:")):
        raise DatastreamError(
            f"{shown(url)} is no server; write datastream {command} grpc://HOST:PORT"
        )
