"""``serve``: a store for other processes, over gRPC."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, ExitStack, nullcontext
from types import ModuleType
from typing import Any

import click
from click.core import ParameterSource

from datastream.cli._exit import exit_on_sigterm
from datastream.cli._interrupt import clean_up_for
from datastream.cli._log import log_calls
from datastream.cli._open import load_grpc, open_existing
from datastream.cli._open_files import allow_files
from datastream.cli._output import emit
from datastream.cli._serve_config import read_config
from datastream.cli._status import say_status
from datastream.errors import DatastreamError, shown

PORT = 8080
"""Of addresses that name none."""
HEARTBEAT_HELP = "Seconds of silence after which a client is asked whether it is there."
GRACE = 1.0
"""Seconds that running calls get to end; watches never end by themselves."""
SWITCH = 0.0005
"""Seconds after which a thread lets others run, a tenth of Python's: those that read and pack large
states would hold up the event loop, and with it all clients."""
CLEAN_UP = 10.0
"""Seconds for all that after Ctrl-C, and for closing the store."""


@click.command()
@click.argument("url", required=False)
@click.option("--config", metavar="FILE", help="TOML file with url and these options; they win.")
@click.option(
    "--address",
    default=f"127.0.0.1:{PORT}",
    show_default=True,
    help=f"HOST:PORT, port 0 for a free one, or unix:PATH; HOST alone has port {PORT}.",
)
@click.option("--tls-cert", metavar="FILE", help="Certificate for TLS, in PEM.")
@click.option("--tls-key", metavar="FILE", help="Its private key.")
@click.option("--client-ca", metavar="FILE", help="Whose certificates clients have to show.")
@click.option("--token-file", metavar="FILE", help="Bearer tokens, one a line, named or not.")
@click.option("--rules", metavar="FILE", help="Who may read and write what: TOML, YAML, JSON, URL.")
@click.option("--read-only", is_flag=True, help="Refuse every write.")
@click.option("--insecure", is_flag=True, help="Serve other machines without TLS and tokens, too.")
@click.option("--heartbeat", type=float, default=20.0, show_default=True, help=HEARTBEAT_HELP)
@click.option(
    "--max-message-size", type=int, default=4 << 20, help="Bytes a client may send at once."
)
@click.option(
    "--limit", "limits", metavar="NAME=N", multiple=True, help="What a client may cost, see docs."
)
@click.option(
    "--metrics", type=int, metavar="PORT", help="Serve metrics to Prometheus there; see --workers."
)
@click.option(
    "--workers",
    type=int,
    default=0,
    metavar="N",
    help="Serve by N processes on one port; their metrics are at PORT, PORT + 1 and so on.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log every call to stderr.")
@click.pass_context
def serve(context: click.Context, /, **given: Any) -> None:
    """Serve a store over gRPC until Ctrl-C or SIGTERM.

    Others open it as grpc://HOST:PORT, or with TLS as grpcs://HOST:PORT. To serve other machines,
    give TLS and a file of tokens or the authority of clients' certificates.
    """
    options = _with_config(context, given)
    if not options["url"]:
        raise click.UsageError("Missing argument 'URL'.")
    if options["verbose"]:
        log_calls()
    transport = load_grpc()
    clean_up_for(CLEAN_UP)
    arguments = _arguments(transport, options)
    allow_files(arguments["limits"].connections)
    with (
        # Workers count each for itself.
        nullcontext() if options["workers"] else _metrics(transport, options["metrics"]),
        open_existing(options["url"], watched=True) as store,
        store.status.subscribe(say_status),
    ):
        # Workers open the URL, each for itself.
        served = options["url"] if options["workers"] else store
        sys.setswitchinterval(SWITCH)
        server = transport.serve(served, with_port(options["address"]), **arguments)
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


def _with_config(context: click.Context, given: dict[str, Any]) -> dict[str, Any]:
    """The options of the command line, and for those that are not given there of the file."""
    options = given | {"limits": dict(map(_limit, given["limits"]))}
    if given["config"] is None:
        return options
    told = read_config(given["config"], context.command.params)
    limits = told.pop("limits", {}) | options["limits"]
    for name, value in told.items():
        if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            options[name] = value
    return options | {"limits": limits}


def _arguments(transport: ModuleType, options: dict[str, Any]) -> dict[str, Any]:
    tls = _tls(transport, options["tls_cert"], options["tls_key"], options["client_ca"])
    same = ("read_only", "insecure", "heartbeat", "max_message_size")
    return {
        **{name: options[name] for name in same},
        **({name: options[name] for name in ("workers", "metrics")} if options["workers"] else {}),
        "tls": tls,
        "tokens": options["token_file"],
        "authorize": options["rules"],
        "limits": _limits(transport, options["limits"]),
    }


def _metrics(transport: ModuleType, port: int | None) -> AbstractContextManager[object]:
    if port is None:
        return nullcontext()
    stack = ExitStack()
    stack.callback(transport.serve_metrics(port))
    return stack


def _limit(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if not number.isascii() or not number.isdecimal():
        raise click.UsageError(f"{shown(text)} is no limit; write NAME=NUMBER, such as streams=500")
    return name.replace("-", "_"), int(number)


def _limits(transport: ModuleType, given: dict[str, Any]) -> Any:
    for name in given:
        if name not in transport.Limits._fields:
            known = ", ".join(transport.Limits._fields)
            raise DatastreamError(f"{shown(name)} is no limit; there are {known}")
    return transport.Limits(**given)


def _tls(transport: ModuleType, certificate: str | None, key: str | None, roots: str | None) -> Any:
    if certificate and key:
        return transport.Tls(certificate, key, roots)
    if certificate or key or roots:
        raise click.UsageError("TLS needs both --tls-cert and --tls-key")
    return None
