"""The SQLite source itself, called from many threads at a time."""

from __future__ import annotations

import random
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from time import monotonic, sleep

import pytest

from datastream.entry import Operation
from datastream.errors import RevisionConflict, SourceUnavailable, StoreClosed
from datastream.selection import Selection
from datastream.source import Feature, Reading, Write, Written
from datastream.sources.sqlite import SqliteSource
from datastream.sources.sqlite import file as sqlite_file
from datastream.sources.sqlite import log as sqlite_log
from tests.integration._programs.tools import eventually

EVERYTHING = Selection()
TIMEOUT = 30.0


@pytest.fixture
def path(tmp_path):
    return tmp_path / "app.db"


@pytest.fixture
def source(path):
    with closing(SqliteSource(path)) as source:
        yield source


@contextmanager
def threads(*functions):
    """Run functions again and again until the block is left; raise what they raised."""
    stop, errors = threading.Event(), []

    def run(function):
        try:
            while not stop.is_set() and not errors:
                function()
        except BaseException as error:
            errors.append(error)

    running = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in running:
        thread.start()
    try:
        yield errors
    finally:
        stop.set()
        for thread in running:
            thread.join(TIMEOUT)
    assert not any(thread.is_alive() for thread in running)
    if errors:
        raise errors[0]


def connect(path):
    return closing(sqlite3.connect(path, isolation_level=None))


def put(source, **values):
    return source.write([Write(key, value.encode(), "str") for key, value in values.items()])


def state(source):
    return {e.key: e.value for e in source.read(EVERYTHING, None).entries}


def open_files(path):
    links = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            links.append(str(link.readlink()))
    return [link for link in links if link.startswith(str(path))]


class Follower:
    """What the store's poller does: read from where it was, and keep the state."""

    def __init__(self, source):
        self.source = source
        first = source.read(EVERYTHING, None)
        self.state = {e.key: e.value for e in first.entries}
        self.position = first.position
        self.batches = []

    def look(self):
        self.source.wait(0.01)
        self.take(self.source.read(EVERYTHING, self.position))

    def take(self, reading: Reading):
        if reading.complete:
            self.state = {}
        for entry in reading.entries:
            if entry.operation is Operation.DELETE:
                self.state.pop(entry.key, None)
            else:
                self.state[entry.key] = entry.value
        if reading.entries:
            self.batches.append(reading.entries)
        self.position = reading.position


@pytest.mark.parametrize("triggers", [True, False])
def test_many_threads_do_everything_at_once(path, triggers, quick_switches):
    with closing(SqliteSource(path, triggers=triggers)) as source:
        follower, numbers, any_ = Follower(source), count(), random.Random(1)

        def write():
            key = f"k{any_.randrange(10)}"
            number = str(next(numbers))
            if any_.random() < 0.2:
                source.write([Write(key, None)])
            elif any_.random() < 0.3:
                # Both or none: what `read` below relies on.
                put(source, **{"pair/a": number, "pair/b": number})
            else:
                entry = put(source, **{key: number}).entries[0]
                assert (entry.key, entry.value) == (key, number.encode())

        def read():
            found = state(source)
            assert found.get("pair/a") == found.get("pair/b")

        def get():
            key = f"k{any_.randrange(10)}"
            entry = source.get(key)
            assert entry is None or entry.key == key

        def resume():
            reading = source.read(EVERYTHING, follower.position)
            assert reading.complete or len({e.key for e in reading.entries}) == len(reading.entries)

        def list_all():
            assert all(capability.value_type == "str" for capability in source.capabilities())

        with threads(*[write] * 3, *[read] * 2, *[get] * 4, resume, list_all, follower.look):
            sleep(2.0)
        for _ in range(2):
            follower.look()
        assert follower.state == state(source)
        for batch in follower.batches:
            keys = {entry.key for entry in batch}
            assert ("pair/a" in keys) == ("pair/b" in keys), "a transaction was torn"


def test_positions_of_writes_are_exact_beside_other_writers(source, path, quick_switches):
    """A follower that applies writes to its position, and reads the rest, ends with the state."""
    follower, lock, numbers = Follower(source), threading.Lock(), count()
    told = count()

    def write():
        written = put(source, **{f"k{next(numbers) % 5}": str(next(numbers))})
        with lock:
            if written.since == follower.position:
                next(told)
                follower.take(Reading(written.entries, written.position, complete=False))

    def write_elsewhere():
        with connect(path) as db:
            db.execute("PRAGMA busy_timeout=10000")
            db.execute(
                "INSERT OR REPLACE INTO data (key, value, value_type) VALUES (?, ?, 'str')",
                (f"k{next(numbers) % 5}", str(next(numbers))),
            )
        sleep(0.002)

    def look():
        sleep(0.05)
        with lock:
            follower.look()

    def check():
        sleep(0.01)
        with lock:
            # A reading of the state which belongs to the position, or to a later one.
            reading = source.read(EVERYTHING, follower.position)
            if not reading.entries:
                assert follower.state == state_at(source, follower.position)

    source.wait(0)
    with threads(write, write, write_elsewhere, look, check):
        sleep(2.0)
    follower.look()
    assert follower.state == state(source)
    assert next(told) > 3


def state_at(source, position):
    """The state, if the backend still is at `position`; else what makes no difference."""
    reading = source.read(EVERYTHING, None)
    if reading.position == position:
        return {e.key: e.value for e in reading.entries}
    return AnyState()


class AnyState:
    def __eq__(self, other):
        return True

    __hash__ = None


@pytest.mark.parametrize("journal", ["wal", "delete"])
@pytest.mark.parametrize("attempts", [0, 3])
def test_without_a_log_equal_positions_are_equal_states(
    path, monkeypatch, journal, attempts, quick_switches
):
    """Also where commits follow each other so fast that none is missed only by chance."""
    monkeypatch.setattr("datastream.sources.sqlite.source.STATE_ATTEMPTS", attempts)
    with connect(path) as db:
        db.execute(f"PRAGMA journal_mode={journal}")
        db.execute("CREATE TABLE data (key TEXT PRIMARY KEY, value)")
    seen, numbers = {}, count()

    def write():
        with connect(path) as db:
            db.execute("PRAGMA busy_timeout=10000")
            for _ in range(50):
                db.execute("INSERT OR REPLACE INTO data VALUES ('a', ?)", (next(numbers),))

    with closing(SqliteSource(path, triggers=False, timeout=20)) as source:
        source.write([Write("a", b"-1", "int")])

        def read():
            reading = source.read(EVERYTHING, None)
            value = reading.entries[0].value
            assert seen.setdefault(reading.position, value) == value

        with threads(write, read, read, read):
            sleep(1.0)
            eventually(lambda: len(seen) > 1, "two states")


def test_a_write_says_where_the_log_was_before_and_after(source):
    source.wait(0)
    for writes in (
        [Write("a", b"1", "bytes")],
        [Write("a", b"2", "bytes")],
        [Write("a", b"3", "bytes"), Write("b", b"1", "bytes")],
        [Write("a", b"4", "bytes"), Write("b", None)],
        [Write("a", None)],
    ):
        before = source.read(EVERYTHING, None).position
        written = source.write(writes)
        assert written.since == before
        assert written.position == source.read(EVERYTHING, None).position != before
        changed = source.read(EVERYTHING, before)
        assert changed.position == written.position
        assert {(e.key, e.value, e.revision) for e in changed.entries} == {
            (e.key, e.value, e.revision) for e in written.entries
        }


@pytest.mark.parametrize("watched", [True, False])
def test_a_write_that_changes_nothing_leaves_the_position(source, watched):
    if watched:
        source.wait(0)
    stored = source.write([Write("a", b"1", "bytes"), Write("b", b"1", "bytes")]).entries
    before = source.read(EVERYTHING, None).position
    assert source.write([Write("a", b"1", "bytes")]).entries == [stored[0]]
    assert source.write([Write("a", b"1", "bytes"), Write("b", b"1", "bytes")]).entries == stored
    assert source.write([Write("c", None)]).entries[0].operation is Operation.DELETE
    with pytest.raises(RevisionConflict):
        source.write([Write("a", b"2", "bytes"), Write("b", b"2", "bytes", expect="other")])
    assert source.read(EVERYTHING, None).position == before
    assert source.get("a") == stored[0]


def test_only_a_watched_source_says_positions(source):
    assert source.write([Write("a", b"1", "bytes")]) == Written(
        source.read(EVERYTHING, None).entries
    )
    source.wait(0)
    assert source.write([Write("a", b"2", "bytes")]).position
    source.release()
    assert not source.write([Write("a", b"3", "bytes")]).position


@pytest.mark.parametrize("seed", range(5))
def test_close_amid_traffic(path, seed, quick_switches):
    """A connection that is closed while it is used ends the process."""
    source, numbers = SqliteSource(path), count()
    put(source, **{f"k{n}": "x" * 1000 for n in range(200)})

    def until_closed(call):
        def run():
            try:
                call()
            except StoreClosed:
                sleep(0.001)

        return run

    calls = (
        lambda: put(source, k1=str(next(numbers))),
        lambda: source.get("k1"),
        lambda: source.read(EVERYTHING, None),
        lambda: source.wait(0.01),
        source.capabilities,
    )
    with threads(*(until_closed(call) for call in calls for _ in range(3))):
        sleep(0.1 + seed / 50)
        source.close()
        sleep(0.05)
    assert open_files(path) == []
    for call in calls[:3]:
        with pytest.raises(StoreClosed, match=r"app\.db"):
            call()


def test_threads_that_come_and_go_leave_no_connections(source, path):
    put(source, a="1")
    for _ in range(10):
        with ThreadPoolExecutor(50) as pool:
            for _ in range(100):
                pool.submit(source.get, "a")
                pool.submit(source.read, EVERYTHING, None)
    files = open_files(path)
    assert len([file for file in files if file.endswith("-wal")]) <= sqlite_file.READERS + 2
    # SQLite itself keeps descriptors of closed connections for the next ones, as closing one
    # would release the locks of the others.
    assert len(files) <= 50 + 2 * (sqlite_file.READERS + 2)
    source.close()
    assert open_files(path) == []


def test_readers_go_on_while_another_program_writes(source, path):
    put(source, a="1")
    with connect(path) as db:
        db.execute("BEGIN IMMEDIATE")
        db.execute("UPDATE data SET value = '2'")
        assert source.get("a").value == b"1"
        assert state(source) == {"a": b"1"}
        db.execute("COMMIT")
    assert source.get("a").value == b"2"


def test_readers_go_on_while_own_writers_wait_for_a_lock(path):
    with closing(SqliteSource(path, timeout=3.0)) as source, connect(path) as db:
        put(source, a="1")
        db.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(8) as pool:
            start = monotonic()
            writes = [pool.submit(put, source, a=str(n)) for n in range(8)]
            read = 0
            while not all(write.done() for write in writes):
                assert source.get("a").value == b"1"
                read += 1
            errors = [write.exception() for write in writes]
        # Not one after the other, each for the whole timeout.
        assert monotonic() - start < 20
        assert read > 8
        assert all(isinstance(source.translate(e, "a"), SourceUnavailable) for e in errors)
        db.execute("COMMIT")
        put(source, a="9")


def test_a_long_reading_holds_up_nobody(source):
    put(source, **{f"k{n}": "x" for n in range(1000)})
    with source._current.attached.moment() as connection:
        rows = connection.execute("SELECT * FROM data")
        rows.fetchone()
        assert source.get("k1").value == b"x"
        put(source, k1="y")
        assert source.get("k1").value == b"y"
        rows.close()


def test_files_replaced_amid_traffic(path, tmp_path, quick_switches):
    source, numbers = SqliteSource(path), count()
    other = tmp_path / "other.db"

    def replace():
        with closing(SqliteSource(other)) as fresh:
            put(fresh, generation=str(next(numbers)))
        with connect(other) as db:
            db.execute("PRAGMA journal_mode=delete")
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        other.replace(path)
        entry = source.get("generation")
        assert entry is not None
        assert int(entry.value) == next(numbers) - 1
        sleep(0.01)

    def tolerant(call):
        def run():
            try:
                call()
            except (SourceUnavailable, sqlite3.OperationalError, sqlite3.DatabaseError):
                # Removing the side files of an open database is allowed to hurt.
                sleep(0.001)

        return run

    calls = (
        lambda: source.get("generation"),
        lambda: source.read(EVERYTHING, None),
        lambda: source.wait(0.01),
    )
    with closing(source), threads(tolerant(replace), *(tolerant(c) for c in calls for _ in "ab")):
        sleep(2.0)
    assert open_files(path) == []


def test_schemas_changed_amid_traffic(source, path, quick_switches):
    """Other programs' columns come and go; what is read always fits one of the schemas."""
    put(source, a="1")
    numbers = count(2)
    follower = Follower(source)

    def change():
        with connect(path) as db:
            db.execute("PRAGMA busy_timeout=10000")
            number = next(numbers)
            db.execute(f"ALTER TABLE data ADD COLUMN extra{number}")
            db.execute("UPDATE data SET value = ? WHERE key = 'a'", (str(number),))
        sleep(0.03)

    last = [0]

    def get():
        entry = source.get("a")
        assert int(entry.value) >= last[0]
        last[0] = max(last[0], int(entry.value))

    with threads(change, get, follower.look, lambda: put(source, b=str(next(numbers)))):
        sleep(1.5)
    follower.look()
    assert follower.state == state(source)


def test_a_get_notices_columns_that_begin_to_count(path):
    """Nobody watches: the next `get` itself has to find out."""
    with connect(path) as db:
        db.execute("CREATE TABLE data (key TEXT PRIMARY KEY, value)")
        db.execute("INSERT INTO data VALUES ('a', '1')")
        with closing(SqliteSource(path)) as source:
            assert [source.get("a").value_type for _ in range(3)] == ["str"] * 3
            db.execute("ALTER TABLE data ADD COLUMN value_type TEXT")
            db.execute("UPDATE data SET value_type = 'int'")
            assert source.get("a").value_type == "int"
            db.execute("ALTER TABLE data RENAME COLUMN value TO content")
            with pytest.raises(Exception, match="no column 'value'"):
                source.get("a")
            db.execute("ALTER TABLE data RENAME COLUMN content TO value")
            assert source.get("a").value == b"1"
            assert source.write([Write("a", b"2", "int")]).entries == [source.get("a")]
            db.execute("DROP TABLE data")
            with pytest.raises(Exception, match="no such table"):
                source.get("a")
            with pytest.raises(Exception, match="no such table"):
                put(source, a="3")
            db.execute("CREATE TABLE data (key INTEGER PRIMARY KEY, value)")
            db.execute("INSERT INTO data VALUES (5, 'five')")
            assert source.get("5").value == b"five"
            assert source.get("05") is None


def test_a_get_of_text_that_is_not_utf_8(source, path):
    with connect(path) as db:
        db.execute("INSERT INTO data (key, value) VALUES ('a', CAST(x'ff41' AS TEXT)), ('b', 'ok')")
    for _ in range(3):
        assert source.get("a").value == b"\xffA"
        assert source.get("b").value == b"ok"


def test_a_write_meets_a_trigger_made_meanwhile(source, path):
    """What a put returns is what is stored, also right after a schema change."""
    put(source, a="1")
    put(source, a="2")
    with connect(path) as db:
        db.execute(
            "CREATE TRIGGER upper AFTER UPDATE ON data WHEN NEW.value <> upper(NEW.value) BEGIN "
            "UPDATE data SET value = upper(value) WHERE key = NEW.key; END"
        )
    entry = put(source, a="x").entries[0]
    assert entry.value == b"X"
    assert entry == source.get("a")


def test_the_log_of_an_earlier_version_is_replaced(path):
    """Its lines do not say whether a key was new."""
    with closing(SqliteSource(path)) as source:
        put(source, a="1")
        layout = source._current.attached.layout
    old = layout._mark(*layout.columns)
    assert old in layout.former_marks
    with connect(path) as db:
        db.execute(f'CREATE TABLE "{old}" (seq INTEGER PRIMARY KEY, key NOT NULL)')
        db.execute(
            f'CREATE TRIGGER "{old}_insert" AFTER INSERT ON data '
            f'BEGIN INSERT INTO "{old}" (key) VALUES (NEW.key); END'
        )
        db.execute("INSERT INTO _datastream VALUES (?, 'old', 1)", (old,))
        db.execute(f'DROP TABLE "{layout.mark}"')
    with closing(SqliteSource(path)) as source:
        assert Feature.LOG in source.features
        put(source, b="1")
        assert state(source) == {"a": b"1", "b": b"1"}
    with connect(path) as db:
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        assert not [name for name in names if name.startswith(old)]
        assert db.execute("SELECT log FROM _datastream").fetchall() == [(layout.mark,)]


def touched(source, since):
    """Whether each touched key was created since, as the log says."""
    attached = source._current.attached
    after = int(since.split(":")[1])
    with attached.moment() as db:
        return {t.key: t.created for t in attached.log.changes(db, after)}


@pytest.mark.parametrize("recursive", [False, True])
@pytest.mark.parametrize(
    "table",
    [
        "key TEXT PRIMARY KEY, value",
        "key TEXT PRIMARY KEY, value) WITHOUT ROWID; --",
        "key TEXT PRIMARY KEY COLLATE NOCASE, value",
        "id INTEGER PRIMARY KEY, key TEXT UNIQUE, value, other UNIQUE",
        "key TEXT PRIMARY KEY, value, value_type TEXT, updated_at TEXT",
    ],
)
def test_the_log_knows_which_keys_were_created_since(path, table, recursive):
    with connect(path) as db:
        db.execute(f"CREATE TABLE data ({table})".removesuffix("; --)"))
        db.execute(f"PRAGMA recursive_triggers={'ON' if recursive else 'OFF'}")
        with closing(SqliteSource(path)) as source:
            db.execute("INSERT INTO data (key, value) VALUES ('old', 1), ('b', 1), ('c', 1)")
            db.execute("INSERT INTO data (key, value) VALUES ('d', 1), ('e', 1), ('f', 1)")
            since = source.read(EVERYTHING, None).position
            db.execute("INSERT OR REPLACE INTO data (key, value) VALUES ('old', 2)")
            db.execute("INSERT INTO data (key, value) VALUES ('new', 1)")
            db.execute("UPDATE data SET value = 3 WHERE key IN ('old', 'new')")
            db.execute("DELETE FROM data WHERE key = 'b'")
            db.execute("INSERT INTO data (key, value) VALUES ('b', 9)")
            db.execute("UPDATE data SET key = 'renamed' WHERE key = 'c'")
            db.execute("UPDATE OR REPLACE data SET key = 'e' WHERE key = 'd'")
            db.execute("INSERT INTO data (key, value) VALUES ('f', 1) ON CONFLICT DO NOTHING")
            put(source, f="2", put="1")
            source.write([Write("f", None), Write("put", None)])
            db.execute("DELETE FROM data")
            assert touched(source, since) == {
                "old": False, "new": True, "b": False, "c": False, "renamed": True,
                "d": False, "e": False, "f": False, "put": True,
            }  # fmt: skip


def test_integer_keys_written_as_text_are_the_same_keys(path):
    with connect(path) as db:
        db.execute("CREATE TABLE data (key INTEGER PRIMARY KEY, value)")
        with closing(SqliteSource(path)) as source:
            db.execute("INSERT INTO data VALUES (5, 1)")
            since = source.read(EVERYTHING, None).position
            db.execute("INSERT OR REPLACE INTO data VALUES ('5', 2)")
            db.execute("INSERT INTO data VALUES ('6', 2)")
            db.execute("INSERT INTO data VALUES (NULL, 2)")
            db.execute("DELETE FROM data")
            assert touched(source, since) == {5: False, 6: True, 7: True}


def test_numbers_written_as_keys_of_a_text_column_are_noted_as_text(source, path):
    with connect(path) as db:
        since = source.read(EVERYTHING, None).position
        db.execute("INSERT INTO data (key, value) VALUES (5, 1), (6, 1)")
        db.execute("DELETE FROM data WHERE key = '6'")
        reading = source.read(EVERYTHING, since)
        assert [(e.key, e.value) for e in reading.entries] == [("5", b"1"), ("6", b"")]
        assert reading.created == {"5", "6"}


def test_an_insert_that_is_ignored_is_no_change(source, path):
    put(source, a="1")
    with connect(path) as db:
        since = source.read(EVERYTHING, None).position
        db.execute("INSERT OR IGNORE INTO data (key, value) VALUES ('a', 2)")
        db.execute("INSERT INTO data (key, value) VALUES ('a', 2) ON CONFLICT DO NOTHING")
        entries = source.read(EVERYTHING, since).entries
        assert entries in ([], [source.get("a")])


def test_pruning_waits_for_nobody(path, monkeypatch):
    monkeypatch.setattr(sqlite_log, "KEPT", 10)
    monkeypatch.setattr("datastream.sources.sqlite.source.KEPT", 10)
    monkeypatch.setattr("datastream.sources.sqlite.source.PRUNE_EVERY", 50)
    with closing(SqliteSource(path)) as source, connect(path) as db:
        position = source.read(EVERYTHING, None).position
        for number in range(49):
            put(source, a=str(number))
        db.execute("INSERT INTO data (key, value) VALUES ('b', 1), ('c', 1)")
        source._reads = 100
        db.execute("BEGIN IMMEDIATE")
        # It would fail after the timeout.
        assert len(source.read(EVERYTHING, position).entries) == 3
        db.execute("COMMIT")
        source._reads = 100
        source.read(EVERYTHING, position)
        assert source.read(EVERYTHING, position).complete
