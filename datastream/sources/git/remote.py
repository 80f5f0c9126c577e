"""Talking to a remote: which commit its branch is at, fetching, pushing. Over HTTP, SSH, a path."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import unquote

from dulwich.client import GitClient, default_urllib3_manager
from dulwich.config import StackedConfig
from dulwich.file import FileLocked
from dulwich.objects import ZERO_SHA, ObjectID
from dulwich.pack import UnpackedObject, pack_objects_to_data
from dulwich.refs import HEADREF, Ref
from dulwich.repo import Repo

from datastream.errors import DatastreamError, Denied, StoreClosed
from datastream.sources.git.address import Address
from datastream.sources.git.clients import (
    LocalClient,
    PatientHttp,
    PatientSSH,
    Sockets,
    check_format,
)
from datastream.sources.git.commit import NewCommit
from datastream.sources.git.errors import local_errors, no_repository, remote_errors
from datastream.sources.git.moving import Moved
from datastream.sources.git.objects import NoRepository, Objects, open_repo, reopen_repo
from datastream.sources.git.publishing import Publishing
from datastream.sources.git.refs import HEAD, HEADS, Refs
from datastream.sources.git.repository import is_bare, user_config

DEFAULT = "main"
"""The branch that a remote without any commit is given."""
CONNECTIONS = 8
"""Kept open to a server over HTTP while nobody uses them."""
_TAGS = b"refs/tags/"
_RACES = ("lock", "fetch first", "non-fast-forward", "failed to update ref", "incorrect old value")

Progress = Callable[[str], None]


class Head(NamedTuple):
    """A branch of the remote, and its newest commit; None while there is none."""

    ref: Ref
    commit: ObjectID | None


class Remote:
    """A repository elsewhere. Safe to use from several threads.

    Args:
        address: where.
        ssh_command: what runs instead of ``ssh``, as git's GIT_SSH_COMMAND.
        timeout: seconds without an answer after which it counts as away.
    """

    def __init__(self, address: Address, ssh_command: str, timeout: float) -> None:
        self.address = address
        self.where = address.shown
        self._ssh_command = ssh_command
        self._timeout = timeout
        local = address.url.scheme == "file"
        self._config = StackedConfig([]) if local else user_config()
        self._path = unquote(address.url.path)
        self._sockets = Sockets()
        # Guards the clients in use; never held while one of them talks.
        self._lock = threading.Lock()
        self._clients: set[PatientSSH] = set()
        self._publishing: Publishing | None = None
        self._closed = False
        # It has answered, so that it is no wrong URL.
        self._was_there = False
        self._pool: Any = self._connections() if address.url.scheme.startswith("http") else None

    def head(self, branch: str) -> Head:
        """Where a branch is; "" asks for the remote's HEAD. One cheap question."""
        head = self._head(branch)
        self._was_there = True
        return head

    def _head(self, branch: str) -> Head:
        ref = Ref(HEADS + (branch or DEFAULT).encode())
        if self.address.url.scheme == "file":
            return self._head_here(branch, ref)
        with self._client() as client:
            asked = [ref] if branch else [HEADREF, ref]
            found = client.get_refs(self._remote_path(), ref_prefix=asked)
        check_format(found.object_format, self.where)
        target = ref if branch else found.symrefs.get(HEADREF, ref)
        commit = found.refs.get(target)
        return Head(target, commit if branch or commit else found.refs.get(HEADREF))

    def fetch(self, repo: Repo, head: Head, progress: Progress | None) -> ObjectID:
        """Get what `repo` lacks of a branch; returns the commit it is at now."""
        now = [head.commit or ZERO_SHA]

        def wanted(refs: Any, depth: int | None = None) -> list[ObjectID]:
            # It may have moved since it was asked for; then the older commit may not be had.
            now[0] = refs.get(head.ref) or now[0]
            return [] if now[0] in repo.object_store else [now[0]]

        prefixes = [head.ref]
        with self._client() as client:
            report = None if progress is None else _lines(progress)
            client.fetch(self._remote_path(), repo, wanted, report, ref_prefix=prefixes)
        return now[0]

    def fetch_named(self, repo: Repo, name: str) -> None:
        """Get the tag, or else the branch, of this name, if the remote has it."""
        refs = [Ref(start + name.encode()) for start in (_TAGS, HEADS)]
        with self._client() as client:
            found = client.get_refs(self._remote_path(), ref_prefix=refs).refs
        for ref in refs:
            commit = found.get(ref)
            if commit is not None:
                repo.refs[ref] = self.fetch(repo, Head(ref, commit), None)
                return

    def push(self, head: Head, new: NewCommit) -> None:
        """Move a branch from where `head` says to a new commit.

        Raises:
            Moved: it is elsewhere, or somebody else moves it right now.
            Denied: the remote does not want it.
        """

        def update(refs: dict[Ref, ObjectID]) -> dict[Ref, ObjectID]:
            if refs.get(head.ref) != head.commit:
                raise Moved(f"{self.where}: the branch moved")
            return {head.ref: new.commit.id}

        def pack(*_: Any, **__: Any) -> tuple[int, Iterator[UnpackedObject]]:
            return pack_objects_to_data([(item, None) for item in new.objects], deltify=False)

        if self.address.url.scheme == "file":
            self._push_here(head, new)
            return
        with self._client() as client:
            result = client.send_pack(self._remote_path(), update, pack)
        refusal = (result.ref_status or {}).get(head.ref)
        if refusal is not None:
            raise self._refused(refusal)

    def close(self) -> None:
        """Free connections and processes, also those in use: what waits for them fails."""
        with self._lock:
            self._closed = True
            clients = list(self._clients)
        for client in clients:
            client.interrupt()
        self._sockets.close()
        if self._pool is not None:
            self._pool.clear()
        if self._publishing is not None:
            self._publishing.close()

    def _refused(self, refusal: str) -> DatastreamError:
        if any(sign in refusal for sign in _RACES):
            return Moved(f"{self.where}: {refusal}")
        said = self.address.credentials.hide(refusal)
        return Denied(f"{self.where} refuses the push: {said}; nothing was written")

    # Clients, one for each use: they are not made for threads.

    @contextmanager
    def _client(self) -> Iterator[GitClient]:
        hide = self.address.credentials.hide
        with (
            remote_errors(self.where, hide, was_there=self._was_there),
            closing(self._new()) as new,
        ):
            with self._lock:
                if self._closed:
                    raise StoreClosed(f"{self.where} was closed; open it anew")
                if isinstance(new, PatientSSH):
                    self._clients.add(new)
            try:
                yield new
            finally:
                with self._lock:
                    self._clients.discard(new)

    def _new(self) -> GitClient:
        new = self._unchecked()
        if isinstance(new, PatientHttp | PatientSSH):
            new.where = self.where
        return new

    def _unchecked(self) -> GitClient:
        url, (username, password) = self.address.url, self.address.credentials
        if url.scheme == "file":
            return LocalClient()
        if url.scheme == "ssh":
            return PatientSSH(
                url.hostname or "",
                url.port,
                username or None,
                ssh_command=self._ssh(),
                timeout=self._timeout,
            )
        return PatientHttp(
            self.where,
            pool_manager=self._pool,
            username=username or None,
            password=password or None,
            timeout=self._timeout,
            config=self._config,
        )

    def _connections(self) -> Any:
        from urllib3.util import Retry

        pool = default_urllib3_manager(self._config, base_url=self.where, timeout=self._timeout)
        self._sockets.follow(pool)
        # A push, a fetch and some looks at a time; more are closed after use, with a warning.
        pool.connection_pool_kw["maxsize"] = CONNECTIONS
        pool.connection_pool_kw["retries"] = Retry(5, connect=1, read=1, redirect=5)
        return pool

    def _ssh(self) -> str:
        given = self._ssh_command or os.environ.get("GIT_SSH_COMMAND", "")
        if not given:
            try:
                given = self._config.get((b"core",), b"sshCommand").decode()
            except KeyError:
                # Without a terminal, ssh must not ask for a password.
                given = f"ssh -o BatchMode=yes -o ConnectTimeout={int(self._timeout) or 1}"
        return given

    def _remote_path(self) -> bytes:
        return self._path.encode()

    def _head_here(self, branch: str, ref: Ref) -> Head:
        """`head` of a repository on this machine, where a broken ref can be told from none."""
        with self._opened() as repo:
            refs = partial(Refs, repo.commondir(), repo.controldir(), where=self.where)
            place = refs(name=ref).find()
            if branch:
                return Head(ref, place.commit)
            head = refs(name=HEAD).find()
            # A HEAD without a branch stands for the default one.
            return Head(ref, place.commit or head.commit) if head.ref == HEAD else Head(*head)

    def _push_here(self, head: Head, new: NewCommit) -> None:
        """`push` into a repository on this machine, where dulwich would leave a pack each time."""
        with self._opened() as repo:
            refs = partial(Refs, repo.commondir(), repo.controldir(), where=self.where)
            if not is_bare(repo) and refs(name=HEAD).find().ref == head.ref:
                raise Denied(
                    f"{self.where} has {head.ref.decode()} checked out; open it as "
                    f"git:{self._path}, or push to a bare repository"
                )
            publishing = self._publishing_in(repo)
            try:
                publishing.publish(Objects(repo), refs(name=head.ref), head.commit, new)
            except FileLocked:
                raise Moved(f"{self.where}: another program moves the branch") from None

    @contextmanager
    def _opened(self) -> Iterator[Repo]:
        """The repository on this machine."""
        with local_errors(self.where):
            try:
                repo = open_repo(self._path)
            except NoRepository:
                raise no_repository(self.where, was_there=self._was_there) from None
            with closing(repo):
                yield repo

    def _publishing_in(self, repo: Repo) -> Publishing:
        with self._lock:
            if self._publishing is None:
                reopen = partial(reopen_repo, self._path)
                self._publishing = Publishing(repo, self.where, reopen)
            return self._publishing


def _lines(progress: Progress) -> Callable[[bytes], None]:
    return lambda data: progress(data.decode("utf-8", "replace").strip())
