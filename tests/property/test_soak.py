"""Each source for a while under all that its users do to it: all converges, nothing piles up.

``DATASTREAM_SOAK_SECONDS=3600 pytest -m chaos tests/property/test_soak.py`` does it for hours.
"""

import gc
import os
import random
import sqlite3
import threading
import time
from contextlib import ExitStack, suppress

import psutil
import pytest

from datastream import DatastreamError, Operation, Store
from datastream.sources.postgres.pool import KEPT
from datastream.sources.sqlite import restore
from tests.integration._programs.tools import eventually
from tests.property.history import backends
from tests.property.history.nats_backend import Nats
from tests.repositories import ENVIRONMENT, GIT
from tests.servers.nats import server as nats_server
from tests.servers.s3 import s3_server

SECONDS = float(os.environ.get("DATASTREAM_SOAK_SECONDS", "20"))
KEYS = ["a", "b", "fx/USD", "fx/GBP", "fx/flash/1", "fx/flash/2"]
LISTENING = 1
"""Sessions on a server that wait for notifications."""
SLACK = 6
"""Threads and descriptors that a moment may have more than another."""

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(SECONDS + 120)]


@pytest.fixture(scope="module", autouse=True)
def s3():
    """Begins before the tests do, which leave no thread behind."""
    with s3_server() as url:
        yield url


@pytest.fixture(scope="module", autouse=True)
def nats():
    """Likewise."""
    with nats_server() as running:
        yield running


# What users do, by backend: the program of each is not ours.


def sql(backend, *statements):
    with suppress(sqlite3.OperationalError):
        for statement in statements:
            backend.db.execute(statement)


def replaced(backend):
    """A copy is edited and put in the place of the file."""
    copy = backend.path.with_name("copy.db")
    with sqlite3.connect(copy) as target:
        backend.db.backup(target)
        target.execute("DELETE FROM data WHERE key = 'a'")
    target.close()
    restore(copy, backend.path)
    copy.unlink()


SQLITE = (
    lambda backend: sql(backend, "VACUUM"),
    lambda backend: sql(backend, "PRAGMA wal_checkpoint(TRUNCATE)"),
    lambda backend: sql(
        backend, "ALTER TABLE data ADD COLUMN extra", "ALTER TABLE data DROP COLUMN extra"
    ),
    replaced,
)


def swapped(backend):
    """The table is rebuilt beside and takes the name."""
    backend.db.execute(
        "BEGIN; CREATE TABLE data_new (LIKE data INCLUDING ALL); INSERT INTO data_new TABLE data; "
        "DROP TABLE data; ALTER TABLE data_new RENAME TO data; COMMIT"
    )


def terminated(backend):
    backend.db.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'soak' AND pid <> pg_backend_pid()"
    )


POSTGRES = (
    swapped,
    terminated,
    lambda backend: backend.db.execute("VACUUM FULL data"),
    lambda backend: backend.db.execute(
        "ALTER TABLE data ADD COLUMN extra int DEFAULT 1; ALTER TABLE data DROP COLUMN extra"
    ),
    lambda backend: backend.db.execute("ALTER TABLE data DISABLE TRIGGER USER"),
    lambda backend: backend.db.execute("ALTER TABLE data ENABLE TRIGGER USER"),
)


def at_rest(backend):
    """The server has few sessions of the store, and no notification that nobody has read."""
    sessions, unread = backend.db.execute(
        "SELECT count(*), pg_notification_queue_usage() FROM pg_stat_activity "
        "WHERE application_name = 'soak'"
    ).fetchone()
    return LISTENING <= sessions <= KEPT + LISTENING and unread == 0


def locked(backend):
    """A program dies and leaves the lock of the branch."""
    lock = backend.repository.path / "refs" / "heads" / "main.lock"
    with suppress(OSError):
        lock.touch(exist_ok=False)
        time.sleep(0.1)
        lock.unlink()


def emptied(backend):
    """The branch is cut off by a full disk, and written again."""
    reference = backend.repository.path / "refs" / "heads" / "main"
    with suppress(OSError):
        tip = reference.read_bytes()
        reference.write_bytes(b"")
        time.sleep(0.05)
        if not reference.read_bytes():
            reference.write_bytes(tip)


GIT_DOES = (
    lambda backend: backend.repository.git("gc", "--quiet", check=False),
    lambda backend: backend.repository.git("pack-refs", "--all", check=False),
    locked,
    emptied,
)


def odd_names(backend):
    # Path takes no bytes.
    place = os.fsencode(backend.path) + b"/odd\xff"
    os.mkdir(place)  # noqa: PTH102
    time.sleep(0.02)
    os.rmdir(place)  # noqa: PTH106


FILES = (
    odd_names,
    lambda backend: os.utime(backend.path),
    lambda backend: (backend.path / ".tmp").write_bytes(b"half"),
)


def archived(backend):
    client, place = backend.client, {"Bucket": backend.bucket, "Key": "p/archived"}
    client.put_object(**place, Body=b"1", StorageClass="GLACIER")
    time.sleep(0.1)
    client.delete_object(**place)


S3 = (archived,)


def paused(backend):
    """The server hangs for a while."""
    backend.server.pause()
    time.sleep(0.2)
    backend.server.go_on()


NATS = (paused, lambda backend: backend.remove_consumers())

DONE_TO = {
    "memory": (),
    "sqlite": SQLITE,
    "postgres": POSTGRES,
    "git": GIT_DOES,
    "files": FILES,
    "s3": S3,
    "nats": NATS,
}
AT_REST = {"postgres": at_rest}


@pytest.fixture
def backend(request, tmp_path, monkeypatch, s3, nats):
    name = request.param
    if name == "git":
        if GIT is None:
            pytest.skip("needs the git program: apt-get install git")
        for variable, value in ENVIRONMENT.items():
            monkeypatch.setenv(variable, value)
    make = {
        "memory": backends.Memory,
        "sqlite": lambda: backends.Sqlite(tmp_path / "store.db", audited=False),
        "postgres": lambda: backends.Postgres(
            request.getfixturevalue("postgres"),
            audited=False,
            libpq={"application_name": "soak"},
        ),
        "git": lambda: backends.Git(tmp_path / "repository"),
        "files": lambda: backends.Files(tmp_path / "files"),
        "s3": lambda: backends.S3(s3),
        "nats": lambda: Nats(nats.url),
    }[name]
    with backends.closing(make()) as backend:
        backend.done_to, backend.server = DONE_TO[name], nats
        backend.at_rest = AT_REST.get(name, lambda _: True)
        yield backend


class Follower:
    """What a watcher knows."""

    def __init__(self, store):
        self.state = {}
        store.watch_batches().subscribe(self._take, on_error=self._failed)
        self.error = None

    def _take(self, batch):
        state = {} if batch.initial or batch.reset else dict(self.state)
        for entry in batch.entries:
            if entry.operation is Operation.DELETE:
                state.pop(entry.key, None)
            else:
                state[entry.key] = entry.value
        self.state = state

    def _failed(self, error):
        self.error = error


class Soak:
    """Threads that do all at once, each again and again until it is stopped."""

    def __init__(self, backend, store):
        self._backend, self._store = backend, store
        self._stopped = threading.Event()
        self._random = random.Random()
        self.failures = []
        does = [self._writes, self._uses, self._comes_and_goes]
        does += [self._disturbs] if backend.done_to else []
        self._threads = [threading.Thread(target=self._repeat, args=(do,)) for do in does]
        for thread in self._threads:
            thread.start()

    def stop(self):
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, do):
        try:
            while not self._stopped.is_set():
                do()
        except Exception as error:
            self.failures.append(error)
            raise

    def _value(self):
        return b"%d" % self._random.getrandbits(60)

    def _writes(self):
        """Another program."""
        self._backend.commit(
            {self._random.choice(KEYS): self._random.choice((None, self._value(), self._value()))}
        )
        self._stopped.wait(0.01 * self._backend.pace)

    def _uses(self):
        key = self._random.choice(KEYS)
        with suppress(DatastreamError, KeyError):
            self._store.put(key, self._value(), value_type="bytes")
            self._store.get(key)
            self._store.delete(key, missing_ok=True)
            self._store.snapshot("fx/")
        self._stopped.wait(0.02 * self._backend.pace)

    def _comes_and_goes(self):
        subscription = self._store.watch("fx/").subscribe(lambda entry: None)
        self._stopped.wait(0.03)
        subscription.dispose()

    def _disturbs(self):
        self._random.choice(self._backend.done_to)(self._backend)
        self._stopped.wait(0.4)


def used():
    """Threads and descriptors of this process."""
    gc.collect()
    return threading.active_count() + psutil.Process().num_fds()


@pytest.mark.parametrize("backend", DONE_TO, indirect=True)
def test_nothing_piles_up_and_all_converges(backend):
    with ExitStack() as stack:
        store = stack.enter_context(Store(backend.source()))
        backend.commit({"a": b"0"})
        follower = Follower(store)
        soak = Soak(backend, store)
        time.sleep(SECONDS / 3)
        before = used()
        time.sleep(SECONDS * 2 / 3)
        soak.stop()
        assert not soak.failures
        for do in backend.done_to[-1:]:
            # Of PostgreSQL's, the one that switches the triggers on.
            do(backend)
        backend.commit({"end": b"1"})
        store.refresh()
        there = {key: backend.peek(key) for key in [*KEYS, "end"]}
        wanted = {key: value for key, value in there.items() if value is not None}

        def known():
            return {key: value for key, value in follower.state.items() if key in there}

        with suppress(AssertionError):
            eventually(lambda: known() == wanted, "the watcher knows what is there")
        assert (known(), follower.error) == (wanted, None), store
        eventually(lambda: backend.at_rest(backend), "its server keeps few sessions, nothing else")
        eventually(lambda: used() <= before + SLACK, "nothing has piled up")
