"""Servers that go away, come back as others, refuse, or are short of something."""

from __future__ import annotations

import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import psycopg
import pytest

import datastream
from datastream import (
    DatastreamError,
    Denied,
    InvalidValue,
    ReadOnly,
    RevisionConflict,
    SourceUnavailable,
    State,
)
from datastream.testing import Recorder
from tests.integration._programs.tools import Follower, Statuses, eventually
from tests.integration.test_postgres_watch import TABLE
from tests.servers.pgbouncer import needs_pgbouncer, pgbouncer
from tests.servers.postgres import Server, free_port
from tests.servers.proxy import Proxy

# Most tests start a server of their own.
pytestmark = pytest.mark.chaos

SECRET = "hunter2 & more"


@pytest.fixture
def server():
    with Server().start() as server:
        with psycopg.connect(server.url, autocommit=True) as db:
            db.execute(TABLE)
        yield server


@pytest.fixture
def db(postgres):
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(TABLE)
        yield connection


@pytest.fixture
def closing_store():
    with ExitStack() as stack:
        yield stack.enter_context


def execute(url, *statements):
    with psycopg.connect(url, autocommit=True) as db:
        for statement in statements:
            db.execute(statement)


# --- servers that go away ---


@pytest.mark.parametrize(
    "how", ["kill", *(pytest.param(how, marks=pytest.mark.chaos) for how in ("fast", "immediate"))]
)
def test_a_server_that_is_stopped_and_started(server, how):
    execute(server.url, "INSERT INTO data VALUES ('a', '1'), ('b', '1')")
    with datastream.open(server.url) as store:
        statuses, recorder = Statuses(store), Recorder(store)
        recorder.wait_state({"a": b"1", "b": b"1"})
        server.kill() if how == "kill" else server.stop(how)
        statuses.wait(State.STALE)
        with pytest.raises(SourceUnavailable, match="server runs"):
            store.snapshot()
        with pytest.raises(SourceUnavailable, match="server runs"):
            store["a"] = "2"
        assert recorder.state == {"a": b"1", "b": b"1"}
        server.start()
        execute(
            server.url, "DELETE FROM data WHERE key = 'a'", "INSERT INTO data VALUES ('c', '1')"
        )
        store.refresh()
        recorder.wait_state({"b": b"1", "c": b"1"})
        statuses.wait(State.READY)
        assert {entry.key for entry in recorder.live} == {"a", "c"}
        resumed = Recorder(store, since=recorder.batches[0].cursor)
        resumed.wait_ready()
        assert not resumed.batches[0].reset, "the log has survived"
        execute(server.url, "INSERT INTO data VALUES ('d', '1')")
        recorder.wait(lambda r: "d" in r.state)


def test_sessions_that_are_terminated(postgres, db):
    kill = (
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = %s"
    )
    name = db.execute("SELECT current_schema").fetchone()[0]
    with datastream.open(postgres, application_name=name) as store:
        statuses, recorder = Statuses(store), Recorder(store)
        store["a"] = "1"
        for number in range(5):
            assert db.execute(kill, (name,)).rowcount
            if number % 2:
                # What was idle when it was killed has written nothing: it is simply made again.
                store["own"] = str(number)
            db.execute("INSERT INTO data VALUES (%s, '1')", (f"k{number}",))
            recorder.wait(lambda r, key=f"k{number}": key in r.state)
        statuses.wait(State.READY)
        assert store["own"] == "3"
    assert not recorder.batches[-1].reset
    assert len([entry for entry in recorder.entries if entry.key.startswith("k")]) == 5


def test_a_connection_cut_in_the_middle_of_a_write(server):
    with Proxy(server.port) as proxy:
        url = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres"
        with datastream.open(url) as store:
            follower = Follower(store)
            entry = store.put("k", "before")
            proxy.cut_after(b"written, unanswered")
            with pytest.raises(SourceUnavailable, match="may or may not have been done"):
                store.put("k", "written, unanswered", expect=entry.revision)
            follower.wait_key("k", b"written, unanswered")
            with pytest.raises(RevisionConflict):
                store.put("k", "again", expect=entry.revision)
            proxy.cut()
            execute(server.url, "INSERT INTO data VALUES ('meanwhile', '1')")
            follower.wait_key("meanwhile", b"1")
            store["k"] = "after"
            follower.wait_key("k", b"after")


@pytest.mark.parametrize("more", [0, 500])
@pytest.mark.chaos
def test_a_server_that_comes_back_with_an_older_state(server, closing_store, more):
    """A restored copy, whose transactions count on from where it was made."""
    execute(server.url, "INSERT INTO data VALUES ('old', '1'), ('both', '1')")
    store = closing_store(datastream.open(server.url))
    store["watched"] = "1"
    server.stop()
    copy = server.folder / "copy"
    server.copy_to(copy)
    server.start()
    statuses, recorder = Statuses(store), Recorder(store)
    recorder.wait_ready()
    for number in range(50):
        execute(server.url, f"INSERT INTO data VALUES ('lost/{number}', '1')")
    execute(server.url, "UPDATE data SET value = 'lost' WHERE key = 'both'")
    recorder.wait(lambda r: len(r.state) == 53 and r.state["both"] == b"lost")
    cursor = recorder.cursor
    server.stop()
    statuses.wait(State.STALE)
    shutil.rmtree(server.data)
    copy.rename(server.data)
    server.start()
    with psycopg.connect(server.url, autocommit=True) as db:
        for number in range(more):
            db.execute("INSERT INTO data VALUES ('new', %s) ON CONFLICT (key) DO UPDATE "
                       "SET value = excluded.value", (str(number),))  # fmt: skip
        db.execute("INSERT INTO data VALUES ('end', '1')")
        expected = {k: v.encode() for k, v in db.execute("SELECT key, value FROM data")}
    store.refresh()
    recorder.wait_state(expected)
    resumed = Recorder(store, since=cursor)
    resumed.wait_ready()
    assert resumed.batches[0].reset
    assert resumed.state == expected


@pytest.mark.parametrize("create", [False, True])
def test_a_table_that_is_dropped_and_made_again(postgres, db, create):
    with datastream.open(postgres, create=create) as store:
        statuses, follower = Statuses(store), Follower(store)
        store.put_many({"a": "1", "b": "1"})
        follower.wait_state({"a": b"1", "b": b"1"})
        db.execute("DROP TABLE data")
        store.refresh()
        assert "no such table" in str(statuses.wait(State.STALE).error)
        with pytest.raises(SourceUnavailable, match="no such table"):
            store["a"] = "2"
        assert follower.state == {"a": b"1", "b": b"1"}
        db.execute(TABLE)
        db.execute("INSERT INTO data VALUES ('b', '1'), ('c', '1')")
        store.refresh()
        follower.wait_state({"b": b"1", "c": b"1"})
        statuses.wait(State.READY)
        db.execute("INSERT INTO data VALUES ('d', '1')")
        follower.wait_key("d", b"1")
        db.execute("BEGIN; DROP TABLE data; CREATE TABLE data (value jsonb, key text PRIMARY KEY); "
                   "INSERT INTO data VALUES ('{}', 'e'); COMMIT")  # fmt: skip
        store["f"] = [1]
        follower.wait_state({"e": b"{}", "f": b"[1]"})


# --- refusals ---


def test_passwords(server, tmp_path, monkeypatch):
    role = "CREATE ROLE app LOGIN PASSWORD 'hunter2 & more'; GRANT ALL ON data TO app"
    execute(server.url, f"{role}; GRANT ALL ON SCHEMA public TO app; ALTER TABLE data OWNER TO app")
    server.hba("local all postgres trust", "host all app 127.0.0.1/32 scram-sha-256",
               "local all all scram-sha-256")  # fmt: skip
    server.reload()
    place = f"127.0.0.1:{server.port}/postgres"
    for wrong in (f"app:wrong{SECRET}@", "app@", "nobody:x@"):
        with pytest.raises(Denied, match=r"password|pg_hba") as caught:
            datastream.open(f"postgresql://{wrong.replace(' ', '%20')}{place}")
        assert "hunter2" not in str(caught.value)
        assert caught.value.__cause__ is None
    store = datastream.open(f"postgresql://app:hunter2%20%26%20more@{place}")
    assert store.snapshot() == {}
    assert "hunter2" not in repr(store)
    statuses = Statuses(store)
    follower = Follower(store)
    execute(server.url, "ALTER ROLE app PASSWORD 'other'")

    def is_refused():
        # Again and again: a session may have been connecting when the password was changed.
        execute(
            server.url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'",
        )
        return State.FAILED in {status.state for status in statuses.seen}

    eventually(is_refused, "the password is refused")
    error = statuses.wait(State.FAILED).error
    assert isinstance(error, Denied)
    assert "hunter2" not in str(error)
    execute(server.url, f"ALTER ROLE app PASSWORD '{SECRET}'", "INSERT INTO data VALUES ('a', '1')")
    store.refresh()
    follower.wait_state({"a": b"1"})
    statuses.wait(State.READY)
    store.close()
    datastream.open(f"postgresql://app@{place}", password=SECRET).close()
    file = tmp_path / "pgpass"
    file.write_text(f"127.0.0.1:{server.port}:*:app:{SECRET}\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))
    datastream.open(f"postgresql://app@{place}").close()


def test_services(server, tmp_path, monkeypatch):
    file = tmp_path / "services"
    file.write_text(f"[here]\nhost=127.0.0.1\nport={server.port}\nuser=postgres\ndbname=postgres\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    with datastream.open("postgresql:///?service=here&table=data") as store:
        store["a"] = "1"
    with pytest.raises(DatastreamError, match="service"):
        datastream.open("postgresql:///?service=there")
    monkeypatch.setenv("PGSERVICE", "here")
    with datastream.open("postgres:?table=data") as store:
        assert store["a"] == "1"


def test_several_hosts(server):
    hosts = f"127.0.0.1:{free_port()},127.0.0.1:{server.port}"
    url = f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write"
    with datastream.open(url) as store:
        store["a"] = "1"


def test_tls_that_is_not_there(server):
    with pytest.raises(Denied, match="SSL"):
        datastream.open(f"postgresql://postgres@127.0.0.1:{server.port}/postgres?sslmode=require")


@needs_pgbouncer
def test_tls(server, tmp_path):
    """The server in the wheel has none, so PgBouncer does it."""
    ours, other = _make_certificate(server.folder, "ours"), _make_certificate(tmp_path, "other")
    settings = {
        "client_tls_sslmode": "require",
        "client_tls_key_file": ours.with_suffix(".key"),
        "client_tls_cert_file": ours,
    }
    if server.user:
        shutil.chown(settings["client_tls_key_file"], server.user)
    with pgbouncer(server, pool_mode="session", **settings) as url:
        with pytest.raises(Denied, match="SSL"):
            datastream.open(f"{url}?sslmode=disable")
        with pytest.raises(Denied, match="certificate"):
            datastream.open(f"{url}?sslmode=verify-full&sslrootcert={other}")
        with datastream.open(f"{url}?sslmode=verify-full&sslrootcert={ours}") as store:
            follower = Follower(store)
            execute(server.url, "INSERT INTO data VALUES ('a', '1')")
            follower.wait_state({"a": b"1"})


def _make_certificate(folder, name):
    certificate = folder / f"{name}.crt"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj",
         "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", certificate.with_suffix(".key"), "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate


@pytest.mark.parametrize("url", [
    "postgresql://u:hunter2@/db?no_such=1", "postgresql://u:hunter2@[half/db",
    "postgresql://u:hunter2@host:port/db", "postgresql://u:hunter2%zz@h/d",
])  # fmt: skip
def test_malformed_urls_show_no_secret(url):
    with pytest.raises(DatastreamError) as caught:
        datastream.open(url)
    error = caught.value
    while error is not None:
        assert "hunter2" not in str(error)
        error = error.__cause__


@pytest.mark.parametrize("option", [
    {"sslmode": "yes"}, {"target_session_attrs": "primery"}, {"options": "-cno_such=1"},
    {"options": "-cwork_mem=much"}, {"hostaddr": "127.0.0.1,127.0.0.2"},
])  # fmt: skip
def test_options_with_unknown_values_are_no_outage(postgres_server, option):
    with pytest.raises(DatastreamError, match="check the options") as caught:
        datastream.open(postgres_server, **option)
    assert type(caught.value) is DatastreamError


def test_nobody_answers():
    with pytest.raises(SourceUnavailable, match="refused"):
        datastream.open(f"postgresql://postgres:hunter2@127.0.0.1:{free_port()}/postgres")


def test_a_statement_that_takes_too_long(postgres, db):
    options = "-csearch_path={} -cstatement_timeout=1000".format(
        db.execute("SELECT current_schema").fetchone()[0]
    )
    with datastream.open(postgres, options=options) as store:
        store["a"] = "1"
        with db.transaction():
            db.execute("LOCK TABLE data")
            with pytest.raises(SourceUnavailable, match="statement_timeout"):
                store.snapshot()
            with pytest.raises(SourceUnavailable, match="statement_timeout"):
                store["a"] = "2"
        store["a"] = "3"
        assert store["a"] == "3"


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("disk_full", SourceUnavailable), ("too_many_connections", SourceUnavailable),
        ("io_error", SourceUnavailable), ("insufficient_privilege", Denied),
        ("read_only_sql_transaction", ReadOnly), ("check_violation", InvalidValue),
        ("raise_exception", InvalidValue), ("internal_error", DatastreamError),
    ],
)  # fmt: skip
def test_what_the_server_says_becomes_our_error(postgres, db, state, kind):
    db.execute(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE {state} USING MESSAGE = 'no luck', DETAIL = 'secret'; END $$"
    )
    with datastream.open(postgres) as store:
        store["a"] = "1"
        db.execute("CREATE TRIGGER f BEFORE UPDATE ON data EXECUTE FUNCTION fail()")
        for write in (lambda: store.put("a", "2"), lambda: store.put_many({"a": "2", "b": "2"})):
            with pytest.raises(kind, match=r"table 'data', key 'a': no luck; \w+") as caught:
                write()
            assert type(caught.value) is kind
            assert "secret" not in str(caught.value)
        assert {key: entry.value for key, entry in store.snapshot().items()} == {"a": b"1"}


@pytest.mark.parametrize("state", ["serialization_failure", "deadlock_detected"])
def test_what_lost_against_another_transaction_is_tried_again(postgres, db, state):
    db.execute("CREATE SEQUENCE failures")
    db.execute(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF nextval('failures') < current_setting('test.failures', true)::int THEN "
        f"RAISE {state}; END IF; RETURN NULL; END $$"
    )
    db.execute("CREATE TRIGGER f BEFORE UPDATE ON data EXECUTE FUNCTION fail()")
    schema = db.execute("SELECT current_schema").fetchone()[0]

    def options(failures):
        return f"-csearch_path={schema} -ctest.failures={failures}"

    with datastream.open(postgres, options=options(4)) as store:
        store["a"] = "1"
        store["a"] = "2"
        assert store["a"] == "2"
    with datastream.open(postgres, options=options(10**6)) as store:
        with pytest.raises(SourceUnavailable, match="in the way"):
            store.put_many({"a": "3", "b": "3"})
        assert list(store) == ["a"]


def test_deadlocks_among_writers(postgres, db):
    """Another program locks in the other order."""
    stop = threading.Event()

    def contrary():
        with psycopg.connect(postgres, autocommit=True) as other:
            other.execute("SET deadlock_timeout = '10ms'")
            while not stop.is_set():
                try:
                    with other.transaction():
                        other.execute("UPDATE data SET value = value || 'x' WHERE key = 'b'")
                        other.execute("UPDATE data SET value = value || 'x' WHERE key = 'a'")
                except psycopg.errors.DeadlockDetected:
                    pass

    schema = db.execute("SELECT current_schema").fetchone()[0]
    options = f"-csearch_path={schema} -cdeadlock_timeout=10ms"
    with datastream.open(postgres, options=options) as store:
        store.put_many({"a": "", "b": ""})
        thread = threading.Thread(target=contrary)
        thread.start()
        try:
            for number in range(30):
                store.put_many({"b": str(number), "a": str(number)})
        finally:
            stop.set()
            thread.join()
        eventually(lambda: len(store) == 2, "it still answers")


def test_a_role_with_few_connections(postgres):
    """Its calls take turns; with none at all they say why."""
    with psycopg.connect(postgres, autocommit=True) as db:
        role = f"r_{db.execute('SELECT current_schema').fetchone()[0]}"
        db.execute(f"CREATE ROLE {role} LOGIN CONNECTION LIMIT 2")
        db.execute("CREATE TABLE data (key text PRIMARY KEY, value text)")
        db.execute(f"ALTER TABLE data OWNER TO {role}; GRANT ALL ON SCHEMA {role[2:]} TO {role}")
        url = f"{postgres}&user={role}"
        try:
            with datastream.open(url, mode="notify") as store:
                statuses, follower = Statuses(store), Follower(store)
                statuses.wait(State.READY)
                with ThreadPoolExecutor(10) as threads:
                    done = [threads.submit(store.put, f"k{n}", "1") for n in range(40)]
                    done += [threads.submit(store.get, "k0") for _ in range(20)]
                    for future in done:
                        future.result()
                follower.wait(lambda state: len(state) == 40)
                assert set(statuses.states) <= {State.CONNECTING, State.READY}
            db.execute(f"ALTER ROLE {role} CONNECTION LIMIT 0")
            with pytest.raises(SourceUnavailable, match="raise that limit"):
                datastream.open(url)
        finally:
            db.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")
