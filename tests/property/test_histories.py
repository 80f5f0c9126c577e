"""Random histories of every source, local and remote, with and without faults.

A failure names its seed; ``DATASTREAM_HISTORY_SEED=… pytest -n 0 …::test[…]`` runs it again, and
``DATASTREAM_HISTORY_SECONDS=60`` longer. ``DATASTREAM_HISTORY_ALL=1 pytest -m chaos`` searches in
all manners, faults included. Threads are scheduled by the system: a seed repeats what
was done, not when.
"""

import os
from functools import partial

import pytest

from tests.property.history import backends
from tests.property.history.nats_backend import Nats
from tests.property.history.scenario import History
from tests.repositories import ENVIRONMENT, GIT
from tests.servers.nats import server as nats_server
from tests.servers.s3 import s3_server


@pytest.fixture(scope="module", autouse=True)
def s3():
    """Begins before the tests do, which leave no thread behind."""
    with s3_server() as url:
        yield url


@pytest.fixture(scope="module", autouse=True)
def nats():
    with nats_server() as running:
        yield running.url


def git(request):
    if GIT is None:
        pytest.skip("needs the git program: apt-get install git")
    patch = request.getfixturevalue("monkeypatch")
    for name, value in ENVIRONMENT.items():
        patch.setenv(name, value)
    return backends.Git(place(request) / "repository")


def place(request):
    return request.getfixturevalue("tmp_path")


def sqlite(request, **options):
    return backends.Sqlite(place(request) / "store.db", **options)


def postgres(request, **options):
    return backends.Postgres(request.getfixturevalue("postgres"), **options)


BACKENDS = {
    "memory": lambda request: backends.Memory(),
    "listed": lambda request: backends.Listed(),
    "listed by content": lambda request: backends.Listed(by_content=True),
    "listed, one call at a time": lambda request: backends.Listed(safe=False),
    "listed, loaded": lambda request: backends.Listed(by_content=True, loads=True),
    "listed, writes tell": lambda request: backends.Listed(tells=True),
    "compared": lambda request: backends.Compared(),
    "translated": lambda request: backends.Translated(backends.Compared()),
    "translated, sqlite": lambda request: backends.Translated(sqlite(request)),
    "translated, listed": lambda request: backends.Translated(backends.Listed(by_content=True)),
    "document": lambda request: backends.Document(),
    "sqlite": sqlite,
    "sqlite, nothing but ours": partial(sqlite, audited=False),
    "sqlite, polled": partial(sqlite, triggers=False),
    "git": git,
    "files": lambda request: backends.Files(place(request) / "files"),
    "postgres": partial(postgres, mode="notify"),
    "postgres, nothing but ours": partial(postgres, mode="notify", audited=False),
    "postgres, polled": partial(postgres, mode="poll", interval=0.02),
    "s3": lambda request: backends.S3(request.getfixturevalue("s3")),
    "nats": lambda request: Nats(request.getfixturevalue("nats")),
}
MANNERS = {
    "": {},
    "apart": {"shared": False},
    "faults": {"faults": True},
    "remote": {"remote": True},
    "remote, faults": {"remote": True, "faults": True},
    "remote, apart, faults": {"remote": True, "faults": True, "shared": False},
}
QUICK = [
    *((backend, "") for backend in ("memory", "listed, loaded", "translated", "document", "git")),
    ("sqlite", "remote, faults"),
]


LONG = [
    *((backend, manner) for backend in BACKENDS for manner in ("", "apart")),
    *((backend, "remote, faults") for backend in ("listed", "postgres")),
    *((backend, "remote") for backend in ("memory", "compared", "sqlite", "git", "files", "nats")),
    *((backend, "remote") for backend in ("translated", "document")),
    ("nats", "remote, faults"),
]


@pytest.fixture
def backend(request):
    with backends.closing(BACKENDS[request.param](request)) as backend:
        yield backend


@pytest.mark.parametrize(("backend", "manner"), QUICK, indirect=["backend"])
@pytest.mark.timeout(180)
def test_a_short_history_keeps_every_promise(backend, manner):
    History(backend, **MANNERS[manner], seconds=1.2).run()


@pytest.mark.chaos
@pytest.mark.parametrize(("backend", "manner"), LONG, indirect=["backend"])
@pytest.mark.timeout(400)
def test_a_long_history_keeps_every_promise(backend, manner):
    History(backend, **MANNERS[manner], rounds=2, seconds=3).run()


@pytest.mark.skipif(not os.environ.get("DATASTREAM_HISTORY_ALL"), reason="a search: hours of it")
@pytest.mark.chaos
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.timeout(400)
def test_any_history_keeps_every_promise(backend, manner):
    History(backend, **MANNERS[manner]).run()
