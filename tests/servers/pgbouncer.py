"""PgBouncer in front of a server, where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from tests.integration._programs.tools import eventually
from tests.servers.postgres import USER, Server, free_port

PROGRAM = shutil.which("pgbouncer")
needs_pgbouncer = pytest.mark.skipif(
    PROGRAM is None, reason="no pgbouncer here: apt-get install pgbouncer"
)


@contextmanager
def pgbouncer(server: Server, **settings: object) -> Iterator[str]:
    """Its URL, for the superuser."""
    port = free_port()
    lines = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "auth_type": "any",
        "unix_socket_dir": "",
        **settings,
    }
    file = server.folder / "pgbouncer.ini"
    file.write_text(
        f"[databases]\npostgres = user=postgres host=127.0.0.1 port={server.port}\n[pgbouncer]\n"
        + "".join(f"{name} = {value}\n" for name, value in lines.items())
    )
    assert PROGRAM
    process = subprocess.Popen(
        [PROGRAM, file], user=USER, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    try:
        eventually(lambda: _answers(url), "PgBouncer answers")
        yield url
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError as error:
        # It may refuse, but must not be away.
        return "refused" not in str(error)
    return True
