"""`datastream serve`, as a process of its own."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from datastream.cli._serve import with_port
from tests.integration.command_line import Program, Start, run


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path / 'store.db'}"


# serve.


def served(start: Start, url: str, *options: str) -> tuple[Program, str]:
    server = start("serve", url, "--address", "127.0.0.1:0", *options)
    announcement, _, address = server.line().rpartition(" on ")
    assert announcement == f"serving {url}"
    assert not address.endswith(":0")
    return server, f"grpc://{address}"


def test_serve_lets_others_read_write_and_watch(url: str, start: Start) -> None:
    server, remote = served(start, f"{url}?create=true")
    watch = start("watch", remote, "limits", "--json")
    assert run("put", remote, "limits", '{"rps": 9}').exit_code == 0
    assert json.loads(watch.line())["value"] == '{"rps": 9}'
    assert run("get", remote, "limits").stdout == '{"rps": 9}\n'
    assert run("get", url, "limits").stdout == '{"rps": 9}\n'
    assert run("rm", remote, "limits").exit_code == 0
    assert json.loads(watch.line())["operation"] == "DELETE"
    assert server.signal(signal.SIGTERM) == 0
    assert server.rest_of_errors() == []
    assert watch.error_line().startswith("datastream: STALE: ")
    assert watch.signal(signal.SIGINT) == 130


@pytest.mark.chaos
def test_serve_by_workers(url: str, start: Start) -> None:
    server, remote = served(start, f"{url}?create=true", "--workers", "2")
    assert run("put", remote, "limits", "9").exit_code == 0
    assert run("get", url, "limits").stdout == "9\n"
    assert server.signal(signal.SIGTERM) == 0
    assert server.rest_of_errors() == []


def test_serve_refuses_workers_of_a_store_in_memory() -> None:
    refused = run("serve", "memory:", "--address", "127.0.0.1:0", "--workers", "2")
    assert refused.exit_code == 1
    assert "memory of one process" in refused.output


def test_serve_ends_on_ctrl_c(start: Start) -> None:
    server, _ = served(start, "memory:")
    assert server.signal(signal.SIGINT) == 130
    assert server.rest_of_errors() == []


def test_serve_refuses_other_machines_without_tls_and_proof() -> None:
    refused = run("serve", "memory:", "--address", "0.0.0.0:0")
    assert refused.exit_code == 1
    assert "--insecure" in refused.output
    assert "in code" not in refused.output
    half = run("serve", "memory:", "--tls-cert", "server.pem")
    assert half.exit_code == 2
    assert "--tls-key" in half.output


def test_serve_may_only_be_read_and_only_with_a_token(tmp_path: Path, start: Start) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("secret")
    args = ("--address", "127.0.0.1:0", "--read-only", "--token-file", str(tokens))
    server = start("serve", "memory:", *args)
    address = server.line().rpartition(" ")[2]
    assert run("ls", f"grpc://{address}").exit_code == 1
    assert run("ls", f"grpc://{address}?token_file={tokens}").exit_code == 0
    written = run("put", f"grpc://{address}?token_file={tokens}", "k", "1")
    assert written.exit_code == 1
    assert "only be read" in written.output


def test_serve_says_that_the_address_is_in_use(start: Start) -> None:
    _, remote = served(start, "memory:")
    second = start("serve", "memory:", "--address", remote.removeprefix("grpc://"))
    assert second.exit_code() == 1
    (error,) = second.rest_of_errors()
    assert error.startswith("datastream: ")


def test_serve_logs_its_calls_when_asked(start: Start) -> None:
    server, remote = served(start, "memory:", "--verbose")
    run("put", remote, "key", "1")
    assert server.error_line()


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("127.0.0.1", "127.0.0.1:8080"),
        ("localhost", "localhost:8080"),
        ("::1", "[::1]:8080"),
        ("[::1]", "[::1]:8080"),
        ("[::1]:90", "[::1]:90"),
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("unix:/run/x", "unix:/run/x"),
    ],
)
def test_an_address_without_a_port_has_the_default(given: str, address: str) -> None:
    assert with_port(given) == address


def test_serve_makes_no_database_that_was_misspelt(tmp_path: Path) -> None:
    result = run("serve", f"sqlite:{tmp_path}/typo.db", "--address", "127.0.0.1:0")
    assert result.exit_code == 1
    assert list(tmp_path.iterdir()) == []
