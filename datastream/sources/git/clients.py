"""dulwich's clients, made to leave nothing behind and to wait only so long."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import threading
import weakref
from contextlib import closing, suppress
from functools import partial
from selectors import EVENT_READ, DefaultSelector
from typing import IO, Any, cast

from dulwich.client import (
    GitClient,
    HttpGitClient,
    HTTPUnauthorized,
    LocalGitClient,
    SSHGitClient,
    SubprocessSSHVendor,
    SubprocessWrapper,
    extract_object_format_from_capabilities,
)
from dulwich.errors import GitProtocolError, NotGitRepository
from dulwich.protocol import Protocol
from dulwich.repo import BaseRepo, Repo

from datastream.errors import Unsupported
from datastream.sources.git.objects import open_repo


class Sockets:
    """The sockets of HTTP connections, whose waits another thread can end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._closed = False

    def follow(self, manager: Any) -> None:
        """Know all that this manager of connections opens from now on."""
        manager.pool_classes_by_scheme = {
            scheme: self._followed(pool) for scheme, pool in manager.pool_classes_by_scheme.items()
        }

    def close(self) -> None:
        """End all waits: what reads from them, or connects later, fails at once."""
        with self._lock:
            self._closed = True
            found = list(self._open)
        for sock in found:
            _shut(sock)

    def _followed(self, pool: Any) -> Any:
        sockets = self

        class Connection(pool.ConnectionCls):  # type: ignore[misc]
            def connect(self) -> None:
                super().connect()
                sockets._add(self.sock)

        return type(pool.__name__, (pool,), {"ConnectionCls": Connection})

    def _add(self, sock: socket.socket) -> None:
        with self._lock:
            self._open.add(sock)
            closed = self._closed
        if closed:
            _shut(sock)


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


class LocalClient(LocalGitClient):
    """A client for a repository on this machine, opened as all others are."""

    def fetch(self, path: bytes | str, target: BaseRepo, *args: Any, **kwargs: Any) -> Any:
        with self._open_repo(path) as repo:
            # Where it ends, the clone ends too; dulwich looks for the parents all the same.
            if shallow := repo.get_shallow():
                target.update_shallow(shallow, None)
        return super().fetch(path, target, *args, **kwargs)

    @classmethod
    def _open_repo(cls, path: str | bytes) -> closing[Repo]:
        return closing(open_repo(os.fsdecode(path)))


def check_format(name: str | None, where: str) -> None:
    """Refuse a repository whose objects have other ids than ours.

    Raises:
        Unsupported: it is such.
    """
    if name not in (None, "sha1"):
        raise Unsupported(f"{where} has objects in the format {name}; only SHA-1 is supported")


class _Checked(GitClient):
    """Refuses to push into a repository with other ids: an empty one tells no one who reads it."""

    where = ""

    def _negotiate_receive_pack_capabilities(
        self, server_capabilities: set[bytes]
    ) -> tuple[set[bytes], bytes | None]:
        check_format(extract_object_format_from_capabilities(server_capabilities), self.where)
        return super()._negotiate_receive_pack_capabilities(server_capabilities)


class PatientHttp(_Checked, HttpGitClient):
    """A client that leaves no answer open, whatever becomes of it."""

    def _http_request(
        self,
        url: str,
        headers: dict[str, str] | None = None,
        data: Any = None,
        raise_for_status: bool = True,
    ) -> Any:
        answer, read = super()._http_request(url, headers, data, raise_for_status=False)
        self._answers = [*getattr(self, "_answers", ()), answer]
        if answer.status == 404:
            raise NotGitRepository
        if answer.status in (401, 407):
            raise HTTPUnauthorized(None, url)
        if answer.status != 200:
            raise GitProtocolError(f"the server answered with status {answer.status}")
        return answer, read

    def close(self) -> None:
        for answer in getattr(self, "_answers", ()):
            answer.close()


class PatientSSH(_Checked, SSHGitClient):
    """A client that leaves no process behind, and waits only so long for an answer."""

    def __init__(self, host: str, *args: Any, timeout: float, **kwargs: Any) -> None:
        super().__init__(host, *args, **kwargs)
        self.ssh_vendor = self._vendor = _Vendor(timeout)
        self._opened: list[Protocol] = []

    def _connect(self, *args: Any, **kwargs: Any) -> Any:
        connection = super()._connect(*args, **kwargs)
        self._opened.append(connection[0])
        return connection

    def interrupt(self) -> None:
        """End the processes; what reads from them fails. For other threads."""
        for process in list(self._vendor.running):
            if process.poll() is None:
                process.kill()

    def close(self) -> None:
        self.interrupt()
        for protocol in self._opened:
            protocol.close()


class _Vendor(SubprocessSSHVendor):
    """ssh with a limit to how long it may say nothing."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self.running: list[subprocess.Popen[bytes]] = []

    def run_command(self, *args: Any, **kwargs: Any) -> SubprocessWrapper:
        wrapper: Any = super().run_command(*args, **kwargs)
        # Or it would close the pipe when it is gone.
        wrapper.read.__self__.detach()
        pipe = _Pipe(wrapper.proc, self._timeout)
        wrapper.read, wrapper.can_read = io.BufferedReader(pipe).read, partial(pipe.has_more, 0.0)
        self.running.append(wrapper.proc)
        return cast("SubprocessWrapper", wrapper)


class _Pipe(io.RawIOBase):
    """What a process prints; the process ends if it prints nothing for too long."""

    def __init__(self, process: subprocess.Popen[bytes], timeout: float) -> None:
        self._process = process
        self._pipe = cast("IO[bytes]", process.stdout)
        self._timeout = timeout

    def readable(self) -> bool:
        return True

    def has_more(self, timeout: float) -> bool:
        """Whether it prints something, or ends, within so many seconds."""
        # `select` knows no descriptors above 1,023, of which a server may have many.
        with DefaultSelector() as selector:
            selector.register(self._pipe, EVENT_READ)
            return bool(selector.select(timeout))

    def readinto(self, buffer: Any) -> int:
        if not self.has_more(self._timeout):
            self._process.kill()
            raise TimeoutError(f"no answer for {self._timeout:g} s")
        data = os.read(self._pipe.fileno(), len(buffer))
        buffer[: len(data)] = data
        return len(data)
