"""A view that starts from its cache: with the backend away, back again, changed or swapped."""

import secrets
import signal
import subprocess
import sys
import threading

import pytest

from datastream import Selection, SourceUnavailable, State, Store
from datastream._view import write_behind
from datastream._view.cache import CacheFile
from datastream.sources.memory import MemorySource
from datastream.sources.sqlite import SqliteSource
from datastream.testing import Spy
from tests.integration._programs.tools import Child, eventually

AWAY = SourceUnavailable("the server is away")


@pytest.fixture
def name():
    return secrets.token_hex(8)


@pytest.fixture
def elsewhere(name):
    with Store(MemorySource(name)) as store:
        yield store


@pytest.fixture
def path(tmp_path):
    return tmp_path / "fx.cache"


@pytest.fixture
def cached(name, elsewhere, path):
    """There is a cache of two keys."""
    elsewhere.put_many({"fx/USD": 1.5, "fx/GBP": 2.0})
    with Store(MemorySource(name), name="rates") as store:
        store.view("fx/", cache=path)
    assert path.exists()


class Start:
    """A process that starts anew: another store, perhaps without its backend."""

    def __init__(self, name, path, *, away=False, **options):
        self.spy = Spy(MemorySource(name))
        self.spy.failure = AWAY if away else None
        self.store = Store(self.spy, name="rates")
        self.view = self.store.view("fx/", cache=path, **options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.store.close()

    def come_back(self):
        self.spy.failure = None
        self.store.refresh()
        assert self.view.ready(30)


@pytest.mark.usefixtures("cached")
def test_a_start_with_the_backend_away_begins_stale_with_the_last_state(name, path):
    with Start(name, path, away=True) as start:
        view = start.view
        assert view.copy() == {"fx/USD": 1.5, "fx/GBP": 2.0}
        status = view.status.current
        assert (status.state, status.error) == (State.STALE, AWAY)
        assert not view.ready(0.01)
        start.come_back()
        assert view.status.current.state is State.READY


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize("away", [True, False])
def test_only_differences_change_the_view(name, path, elsewhere, away):
    elsewhere["fx/USD"] = 1.6
    elsewhere.delete("fx/GBP")
    elsewhere["fx/CHF"] = 0.9
    decoded = []
    with Start(name, path, away=away, as_=lambda value: decoded.append(value) or value) as start:
        changes = []
        start.view.changes.subscribe(changes.append)
        start.come_back()
        assert start.view.copy() == {"fx/USD": 1.6, "fx/CHF": 0.9}
        assert sorted(decoded) == [0.9, 1.5, 1.6, 2.0]
        if away:
            eventually(lambda: len(changes) == 3, "three changes")


def test_a_swapped_backend_resets_the_view(path, tmp_path):
    database = tmp_path / "x.db"
    with Store(SqliteSource(database), name="rates") as store:
        store.put_many({"fx/USD": 1.5, "fx/GBP": 2.0})
        store.view("fx/", cache=path)
    for file in tmp_path.glob("x.db*"):
        file.unlink()
    with Store(SqliteSource(database), name="rates") as store:
        store.put_many({"fx/USD": 1.6})
        view = store.view("fx/", cache=path)
        assert view.copy() == {"fx/USD": 1.6}
    with Store(SqliteSource(database), name="rates") as store:
        assert store.view("fx/", cache=path).copy() == {"fx/USD": 1.6}


@pytest.mark.usefixtures("cached")
def test_what_was_refused_is_refused_again_or_taken(name, path, elsewhere):
    elsewhere["fx/USD"] = "n/a"
    with Start(name, path, as_=float) as start:
        assert "fx/USD" in start.view.rejected
        assert start.view["fx/USD"] == 1.5
    with Start(name, path, away=True, as_=float) as start:
        assert start.view["fx/USD"] == 1.5
        assert "fx/USD" in start.view.rejected
        start.come_back()
        assert "fx/USD" in start.view.rejected
    with Start(name, path, away=True) as start:
        assert start.view["fx/USD"] == "n/a"
        assert not start.view.rejected


@pytest.mark.usefixtures("cached")
def test_what_the_cache_holds_is_validated_too(name, path):
    with Start(name, path, away=True, as_={1.5: "ok"}.__getitem__) as start:
        assert start.view.copy() == {"fx/USD": "ok"}
        assert "fx/GBP" in start.view.rejected


@pytest.mark.usefixtures("cached")
def test_a_damaged_cache_is_ignored_and_replaced(name, path, caplog):
    path.write_bytes(path.read_bytes()[:-3])
    with Start(name, path, away=True) as start:
        assert "is ignored: it is damaged" in caplog.text
        assert start.view.status.current.state is State.CONNECTING
        with pytest.raises(SourceUnavailable):
            start.view["fx/USD"]
        start.come_back()
        assert start.view["fx/USD"] == 1.5
    with Start(name, path, away=True) as start:
        assert start.view["fx/USD"] == 1.5


@pytest.mark.usefixtures("cached")
def test_it_is_written_behind_and_by_flush(name, path, elsewhere):
    with Start(name, path) as start:
        elsewhere["fx/USD"] = 1.7
        eventually(lambda: start.view["fx/USD"] == 1.7, "the change")
        start.store.flush()
        with Start(name, path, away=True) as other:
            assert other.view["fx/USD"] == 1.7


def test_a_cache_that_cannot_be_written_is_said_once_and_harms_nobody(
    name, elsewhere, tmp_path, caplog
):
    elsewhere["fx/USD"] = 1.5
    with Start(name, tmp_path / "missing" / "fx.cache") as start:
        for number in range(3):
            elsewhere["fx/USD"] = float(number)
            eventually(lambda n=number: start.view["fx/USD"] == n, "the change")
            start.store.flush()
    assert caplog.text.count("cannot be written") == 1


def test_two_processes_share_one(name, path, elsewhere, monkeypatch):
    monkeypatch.setattr(write_behind, "PAUSE", 0.0)
    monkeypatch.setattr(write_behind, "SHARE", 1.0)
    keys = [f"fx/{n}" for n in range(500)]
    elsewhere.put_many(dict.fromkeys(keys, 0))
    with Start(name, path), Start(name, path):
        for number in range(1, 60):
            elsewhere.put_many(dict.fromkeys(keys, number))
            if path.exists():
                with Start(name, path, away=True) as reader:
                    assert len(set(reader.view.values())) == 1
    with Start(name, path, away=True) as reader:
        assert set(reader.view.values()) == {59}
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.chaos
def test_a_process_killed_while_it_writes_leaves_a_whole_one(tmp_path, path):
    for round_ in range(4):
        with Child("cache_writer", tmp_path / "x.db", path) as child:
            assert child.line() == "there"
            threading.Event().wait(0.02 * round_)
            child.signal(signal.SIGKILL)
            child.wait()
        spy = Spy(SqliteSource(tmp_path / "x.db"))
        spy.failure = AWAY
        with Store(spy, name=f"sqlite:{tmp_path / 'x.db'}") as store:
            values = store.view(cache=path).values()
            assert len(values) == 3000
            assert len(set(values)) == 1


FORK = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import datastream
store = datastream.open("memory:")
store.put_many({"a": 1, "b": 2})
view = store.view(cache=sys.argv[1])
subscription = view.changes.subscribe(print)
pid = os.fork()
if pid == 0:
    assert view["a"] == 1 and dict(view) == {"a": 1, "b": 2} and view.snapshot()["b"] == 2
    assert view.status.current.state == "CLOSED"
    for call in (view.ready, lambda: view.changes.subscribe(print), lambda: store.view()):
        try:
            call()
        except datastream.StoreClosed:
            pass
        else:
            raise SystemExit("not refused")
    subscription.dispose()
    view.close()
    store.close()
    print("child ok", flush=True)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
subscription.dispose()
store["a"] = 3
assert store.flush(30) and view["a"] == 3
store.close()
print("parent ok", flush=True)
"""


def test_in_a_child_process_the_last_state_stands_and_nothing_follows(path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORK, str(path)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.stdout.split("\n")[:2] == ["child ok", "parent ok"], done.stdout + done.stderr


@pytest.mark.usefixtures("cached")
def test_a_start_that_stays_offline_leaves_the_time_of_the_cache(name, path):
    content = path.read_bytes()
    for _ in range(2):
        with Start(name, path, away=True) as start:
            since = start.view.status.current.since
            start.view.close()
            start.store.flush()
    assert path.read_bytes() == content
    with Start(name, path, away=True) as start:
        assert start.view.status.current.since == since


@pytest.mark.usefixtures("cached")
def test_a_clock_that_was_wrong_decides_nothing(name, path, elsewhere, monkeypatch):
    elsewhere["fx/USD"] = 1.7
    with monkeypatch.context() as patched:
        patched.setattr("time.time", lambda: 1e10)
        with Start(name, path) as start:
            assert start.view["fx/USD"] == 1.7
    with Start(name, path, away=True) as start:
        assert start.view["fx/USD"] == 1.7


@pytest.mark.usefixtures("cached")
def test_without_a_cursor_it_resumes_by_revisions(name, path, elsewhere):
    file = CacheFile(path, "rates", Selection.of("fx/"))
    file.write(file.read()._replace(cursor=""))
    elsewhere.delete("fx/GBP")
    decoded = []
    with Start(name, path, as_=lambda value: decoded.append(value) or value) as start:
        assert start.view.copy() == {"fx/USD": 1.5}
        assert sorted(decoded) == [1.5, 2.0]
