"""Backends as other programs see them: writers that do not know the library, and the truth."""

from __future__ import annotations

import os
import secrets
import sqlite3
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from random import Random

from datastream import Store
from datastream.entry import Capability, Entry, deleted
from datastream.source import WRITING, Feature, Reading, Source, Write, Written, check_expected
from tests.repositories import ENVIRONMENT, Repository


class Backend:
    """One backend, empty at first."""

    audited = False
    """`audit` knows every commit of everybody, in order."""
    moments = True
    """Reads are of one moment, and foreign commits of several keys are possible."""
    may_reset = False
    """There is no log: a cursor may be answered with the full state."""
    exact_resumes = True
    content_revisions = False
    """Its log tells whether a key that is gone was there at a cursor."""
    pace = 1.0
    """How many times slower than memory its writers are meant to be."""
    value_type = "bytes"
    """Of the values that its stores write."""

    def source(self) -> Source:
        raise NotImplementedError

    def commit(self, changes: dict[str, bytes | None]) -> None:
        """What another program does; all of it in one go where the backend can."""
        raise NotImplementedError

    def audit(self) -> list[dict[str, bytes | None]]:
        raise NotImplementedError

    def peek(self, key: str) -> bytes | None:
        raise NotImplementedError

    def close(self) -> None:
        pass


class Memory(Backend):
    """The other program is another store of the same name."""

    def __init__(self):
        from datastream.sources.memory import MemorySource

        self.name = f"history-{secrets.token_hex(6)}"
        self.source = lambda: MemorySource(self.name)
        self.other = self.source()

    def commit(self, changes):
        self.other.write([Write(key, value, "bytes") for key, value in changes.items()])

    def peek(self, key):
        entry = self.other.get(key)
        return entry.value if entry else None

    def close(self):
        self.other.close()


class Table:
    """A dictionary with a version, shared by sources that list it."""

    def __init__(self):
        self.lock = threading.Lock()
        self.epoch = secrets.token_hex(4)
        self.version = 0
        self.data: dict[str, tuple[bytes, int]] = {}
        self.bells: list[threading.Event] = []

    @property
    def position(self):
        return f"{self.epoch}:{self.version}"

    def change(self, changes):
        for key, value in changes.items():
            if value is None:
                if self.data.pop(key, None) is None:
                    continue
            elif key in self.data and self.data[key][0] == value:
                continue
            self.version += 1
            if value is not None:
                self.data[key] = (value, self.version)
        for bell in list(self.bells):
            bell.set()


class ListedTable(Source):
    """What a third party writes: every read is a listing, there is no log."""

    features = WRITING

    def __init__(self, table, *, by_content, safe, loads, tells):
        self.table = table
        self.by_content = by_content
        self.thread_safe = safe
        self.loads = loads
        self.tells = tells
        self.bell = threading.Event()
        table.bells.append(self.bell)

    def entry(self, key, *, value=True):
        data, version = self.table.data[key]
        revision = data.decode() if self.by_content else f"{self.table.epoch}:{version}"
        return Entry(key, data if value else b"", "bytes" if value else "", None, revision)

    def capabilities(self):
        with self.table.lock:
            return [Capability(key, "bytes") for key in self.table.data]

    def read(self, selection, since):
        with self.table.lock:
            entries = [
                self.entry(key, value=not self.loads)
                for key in self.table.data
                if selection.matches(key)
            ]
            return Reading(entries, self.table.position, True, self.load if self.loads else None)

    def load(self, entries):
        found = []
        for entry in entries:
            with self.table.lock:
                known = entry.key in self.table.data
                found.append(self.entry(entry.key) if known else deleted(entry.key))
        return found

    def write(self, writes):
        with self.table.lock:
            for write in writes:
                known = write.key in self.table.data
                check_expected(write, self.entry(write.key).revision if known else None)
            self.table.change({write.key: write.value for write in writes})
            entries = [
                deleted(write.key) if write.value is None else self.entry(write.key)
                for write in writes
            ]
            # A position that no read gives: what others did before it is not published yet.
            after = f"{self.table.position}+{secrets.token_hex(4)}"
            return Written(entries, after) if self.tells else entries

    def wait(self, timeout):
        self.bell.wait(timeout)
        self.bell.clear()

    def wake(self):
        self.bell.set()

    def close(self):
        with suppress(ValueError):
            self.table.bells.remove(self.bell)


class Listed(Backend):
    """A third party's listing; the options are what such a source may be like."""

    may_reset = True

    def __init__(self, *, by_content=False, safe=True, loads=False, tells=False):
        self.content_revisions = by_content
        self.table = Table()
        # What a write tells is published before what others did before it.
        self.moments = not (loads or tells)
        self.source = lambda: ListedTable(
            self.table, by_content=by_content, safe=safe, loads=loads, tells=tells
        )

    def commit(self, changes):
        with self.table.lock:
            self.table.change(changes)

    def peek(self, key):
        with self.table.lock:
            return self.table.data.get(key, (None,))[0]


class Versions:
    """All states that ever were, as a repository keeps them, shared by sources that compare two."""

    def __init__(self):
        self.lock = threading.Lock()
        self.epoch = secrets.token_hex(4)
        self.states: list[dict[str, bytes]] = [{}]
        self.commits: list[dict[str, bytes | None]] = []
        self.bells: list[threading.Event] = []

    def commit(self, changes):
        state = dict(self.states[-1])
        for key, value in changes.items():
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
        if state != self.states[-1]:
            self.states.append(state)
            self.commits.append(dict(changes))
        for bell in list(self.bells):
            bell.set()

    def position(self, number):
        return f"{self.epoch}:{number}"

    def number(self, position):
        return int(position.removeprefix(f"{self.epoch}:"))


class ComparingSource(Source):
    """Tells what differs between two versions: what came and went in between is never told.

    A revision is the content, so that it comes back with it. Each read takes a moment, at its
    beginning and at its end.
    """

    features = WRITING | {Feature.LOG}

    def __init__(self, versions, seconds):
        self.versions = versions
        self.seconds = seconds
        self.random = Random(versions.epoch)
        self.bell = threading.Event()
        versions.bells.append(self.bell)

    def capabilities(self):
        return [Capability(key, "bytes") for key in self.versions.states[-1]]

    def read(self, selection, since):
        self._takes_a_moment()
        versions = self.versions
        with versions.lock:
            number = len(versions.states) - 1
        state = selected(versions.states[number], selection)
        position = versions.position(number)
        if since is None:
            reading = Reading([as_entry(*item) for item in state.items()], position, True)
        else:
            before = selected(versions.states[versions.number(since)], selection)
            gone = [deleted(key) for key in before if key not in state]
            now = [as_entry(k, v) for k, v in state.items() if before.get(k) != v]
            created = frozenset(entry.key for entry in now if entry.key not in before)
            reading = Reading([*gone, *now], position, False, created=created)
        self._takes_a_moment()
        return reading

    def _takes_a_moment(self):
        time.sleep(self.random.random() * self.seconds)

    def write(self, writes):
        versions = self.versions
        with versions.lock:
            state = versions.states[-1]
            for write in writes:
                value = state.get(write.key)
                check_expected(write, None if value is None else value.decode())
            versions.commit({write.key: write.value for write in writes})
            return [deleted(w.key) if w.value is None else as_entry(w.key, w.value) for w in writes]

    def wait(self, timeout):
        self.bell.wait(timeout)
        self.bell.clear()

    def wake(self):
        self.bell.set()

    def close(self):
        with suppress(ValueError):
            self.versions.bells.remove(self.bell)


def selected(state, selection):
    return {key: value for key, value in state.items() if selection.matches(key)}


def as_entry(key, value):
    return Entry(key, value, "bytes", None, value.decode())


class Compared(Backend):
    """A third party's versions, as git's are, at the speed of memory."""

    audited = True
    content_revisions = True

    def __init__(self, seconds=0.0005):
        self.versions = Versions()
        self.source = lambda: ComparingSource(self.versions, seconds)

    def commit(self, changes):
        with self.versions.lock:
            self.versions.commit(changes)

    def audit(self):
        return list(self.versions.commits)

    def peek(self, key):
        return self.versions.states[-1].get(key)


class Sqlite(Backend):
    """The `sqlite3` module; triggers keep an audit table, unless `audited` is False."""

    def __init__(self, path: Path, *, audited=True, **options):
        from datastream.sources.sqlite import SqliteSource

        self.path = path
        self.audited = audited
        self.may_reset = options.get("triggers") is False
        self.connections = threading.local()
        self.opened: list[sqlite3.Connection] = []
        # The column's own default has milliseconds: a value that is back within one of them would
        # be at the revision that it had.
        self.times = count(1)
        SqliteSource(path, create=True, triggers=False).close()
        if audited:
            self.db.executescript(SQLITE_AUDIT)
        self.source = lambda: SqliteSource(path, timeout=30, **options)

    @property
    def db(self) -> sqlite3.Connection:
        if not hasattr(self.connections, "db"):
            db = sqlite3.connect(
                self.path, timeout=30, isolation_level=None, check_same_thread=False
            )
            self.connections.db = db
            self.opened.append(db)
        return self.connections.db

    def commit(self, changes):
        db = self.db
        db.execute("BEGIN IMMEDIATE")
        for key, value in changes.items():
            if value is None:
                db.execute("DELETE FROM data WHERE key = ?", (key,))
            else:
                at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=next(self.times))
                db.execute(
                    "INSERT OR REPLACE INTO data (key, value, value_type, updated_at) "
                    "VALUES (?, ?, 'bytes', ?)",
                    (key, value, at.isoformat(" ", "microseconds")),
                )
        db.execute("COMMIT")

    def audit(self):
        return by_tag(self.db.execute("SELECT key, value FROM audit ORDER BY seq"))

    def peek(self, key):
        row = self.db.execute(
            "SELECT CAST(value AS BLOB) FROM data WHERE key = ?", (key,)
        ).fetchone()
        return row[0] if row else None

    def close(self):
        for db in self.opened:
            db.close()


SQLITE_AUDIT = """
CREATE TABLE audit (seq INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT, value BLOB);
CREATE TRIGGER audit_insert AFTER INSERT ON data BEGIN
  INSERT INTO audit (key, value) VALUES (NEW.key, CAST(NEW.value AS BLOB)); END;
CREATE TRIGGER audit_update AFTER UPDATE ON data BEGIN
  INSERT INTO audit (key, value) VALUES (NEW.key, CAST(NEW.value AS BLOB)); END;
CREATE TRIGGER audit_delete AFTER DELETE ON data BEGIN
  INSERT INTO audit (key, value) VALUES (OLD.key, NULL); END;
"""


def by_tag(rows):
    """Commits out of rows: what lies between two values of one tag was committed together."""
    rows = list(rows)
    last = {tag_of(value): number for number, (_, value) in enumerate(rows) if value is not None}
    commits, end = [], -1
    for number, (key, value) in enumerate(rows):
        if number > end:
            commits.append({})
            tag = tag_of(value)
            end = last[tag] if tag else number
        commits[-1][key] = value
    return commits


def tag_of(value: bytes | None) -> bytes:
    """Values of one commit of several keys start with its tag and a ``:``."""
    tag, colon, _ = (value or b"").partition(b":")
    return tag if colon else b""


class Postgres(Backend):
    """psycopg; triggers keep an audit table, and an advisory lock its order that of commits."""

    pace = 2.0

    def __init__(self, url: str, *, audited=True, **options):
        import psycopg

        from datastream.sources.postgres import PostgresSource

        self.url = url
        self.audited = audited
        self.may_reset = options.get("mode") == "poll"
        self.connections = threading.local()
        self.opened: list[psycopg.Connection] = []
        self.connect = lambda: psycopg.connect(url, autocommit=True)
        PostgresSource(url, create=True, mode="poll").close()
        if audited:
            self.db.execute(POSTGRES_AUDIT)
        self.source = lambda: PostgresSource(url, **options)

    @property
    def db(self):
        if not hasattr(self.connections, "db"):
            self.connections.db = self.connect()
            self.opened.append(self.connections.db)
        return self.connections.db

    def commit(self, changes):
        with self.db.transaction():
            # In one order, so that no two of these wait for each other.
            for key, value in sorted(changes.items()):
                if value is None:
                    self.db.execute("DELETE FROM data WHERE key = %s", (key,))
                else:
                    self.db.execute(POSTGRES_PUT, (key, value))

    def audit(self):
        commits, last = [], None
        for tx, key, value in self.db.execute("SELECT tx, key, value FROM audit ORDER BY seq"):
            if tx != last:
                commits.append({})
                last = tx
            commits[-1][key] = bytes(value) if value is not None else None
        return commits

    def peek(self, key):
        row = self.db.execute("SELECT value FROM data WHERE key = %s", (key,)).fetchone()
        return bytes(row[0]) if row else None

    def close(self):
        for db in self.opened:
            db.close()


POSTGRES_PUT = """
INSERT INTO data (key, value, value_type, updated_at)
VALUES (%s, %s, 'bytes', clock_timestamp())
ON CONFLICT (key) DO UPDATE
SET value = excluded.value, value_type = 'bytes', updated_at = excluded.updated_at
"""
POSTGRES_AUDIT = """
CREATE TABLE audit (seq bigserial PRIMARY KEY, tx text, key text, value bytea);
CREATE FUNCTION audit_lock() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN PERFORM pg_advisory_xact_lock(hashtext(current_schema())); RETURN NULL; END $$;
CREATE FUNCTION audit_row() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    IF TG_OP = 'DELETE' THEN
      INSERT INTO audit (tx, key, value)
        VALUES (pg_current_xact_id()::text, OLD.key, NULL);
    ELSE
      INSERT INTO audit (tx, key, value) VALUES (pg_current_xact_id()::text, NEW.key, NEW.value);
    END IF;
    RETURN NULL;
  END $$;
CREATE TRIGGER audit_first BEFORE INSERT OR UPDATE OR DELETE ON data
  FOR EACH STATEMENT EXECUTE FUNCTION audit_lock();
CREATE TRIGGER audit_each AFTER INSERT OR UPDATE OR DELETE ON data
  FOR EACH ROW EXECUTE FUNCTION audit_row();
"""


class Git(Backend):
    """The git program; its log is the truth."""

    content_revisions = True

    audited = True
    pace = 6.0

    def __init__(self, path: Path, **options):
        from datastream.sources.git import GitSource

        self.repository = Repository.new(path, bare=True)
        self.source = lambda: GitSource(path, branch="main", **options)

    def commit(self, changes):
        for _ in range(200):
            if self._attempt(changes):
                return
        raise AssertionError("the git program never got its commit in")

    def _attempt(self, changes):
        tip = self.repository.git("rev-parse", "-q", "--verify", "refs/heads/main", check=False)
        lines = [b"commit refs/heads/main\ncommitter S <s@example.org> now\ndata 2\nok\n"]
        if tip:
            lines.append(f"from {tip}\n".encode())
        for key, value in changes.items():
            if value is None:
                lines.append(f"D {key}\n".encode())
            else:
                lines.append(b"M 644 inline %s\ndata %d\n%s\n" % (key.encode(), len(value), value))
        done = subprocess.run(
            ["git", "fast-import", "--quiet", "--date-format=now"],
            cwd=self.repository.path,
            input=b"".join(lines),
            capture_output=True,
            check=False,
            env=os.environ | ENVIRONMENT,
        )
        return done.returncode == 0

    def audit(self):
        tip = self.repository.git("rev-parse", "-q", "--verify", "refs/heads/main", check=False)
        if not tip:
            return []
        order = ("--reverse", "--first-parent", "--no-renames")
        log = self.repository.raw("log", *order, "--format=%x01", "--raw", "--no-abbrev", "-z", tip)
        commits = [_changes(part) for part in log.split(b"\1")[1:]]
        blobs = sorted({blob for commit in commits for blob in commit.values() if blob})
        contents = self._contents(blobs)
        return [
            {key: contents[blob] if blob else None for key, blob in commit.items()}
            for commit in commits
        ]

    def _contents(self, blobs):
        output = self.repository.raw("cat-file", "--batch", data=b"".join(b + b"\n" for b in blobs))
        contents, at = {}, 0
        for blob in blobs:
            end = output.index(b"\n", at)
            size = int(output[at:end].split()[2])
            contents[blob] = output[end + 1 : end + 1 + size]
            at = end + 2 + size
        return contents

    def peek(self, key):
        return self.repository.files("main").get(key.encode())

    def close(self):
        self.repository.fsck()


def _changes(part: bytes):
    """One commit of ``git log --raw -z``: key to blob id, None where it was removed."""
    fields = [field.strip(b"\n") for field in part.split(b"\0") if field.strip(b"\n")]
    found = {}
    for meta, name in zip(fields[::2], fields[1::2], strict=True):
        _, _, _, blob, status = meta.split()
        found[name.decode()] = None if status == b"D" else blob
    return found


class Files(Backend):
    """Plain writes: a temporary file, renamed; the writer's journal is the truth."""

    content_revisions = True

    moments = False
    may_reset = True
    pace = 1.5

    def __init__(self, path: Path, **options):
        from datastream.sources.files import FilesSource

        path.mkdir()
        self.path = path
        self.count = 0
        self.source = lambda: FilesSource(path, **options)

    def commit(self, changes):
        for key, value in changes.items():
            place = self.path / key
            if value is None:
                place.unlink(missing_ok=True)
                self._remove_directory(place.parent)
            else:
                self._put(place, value)

    def _remove_directory(self, folder):
        self.count += 1
        if self.count % 3 == 0 and folder != self.path:
            with suppress(OSError):
                folder.rmdir()

    def _put(self, place, value):
        while True:
            # Another writer may remove the directory that this one has just made.
            with suppress(FileNotFoundError):
                place.parent.mkdir(parents=True, exist_ok=True)
                temporary = place.parent / f".{secrets.token_hex(4)}"
                temporary.write_bytes(value)
                temporary.replace(place)
                return

    def peek(self, key):
        with suppress(FileNotFoundError, NotADirectoryError):
            return (self.path / key).read_bytes()
        return None


class S3(Backend):
    """boto3 on moto's server; the writer's journal is the truth."""

    content_revisions = True

    moments = False
    may_reset = True
    pace = 10.0

    def __init__(self, url: str):
        from datastream.sources.s3 import S3Source
        from tests.servers.s3 import CREDENTIALS, client, new_bucket

        self.client = client(url)
        self.bucket = new_bucket(url)
        self.source = lambda: S3Source(
            self.bucket, "p", endpoint_url=url, interval=0.05, **CREDENTIALS
        )

    def commit(self, changes):
        for key, value in changes.items():
            place = {"Bucket": self.bucket, "Key": f"p/{key}"}
            if value is None:
                self.client.delete_object(**place)
            else:
                self.client.put_object(**place, Body=value)

    def peek(self, key):
        try:
            return self.client.get_object(Bucket=self.bucket, Key=f"p/{key}")["Body"].read()
        except self.client.exceptions.NoSuchKey:
            return None


class Translated(Backend):
    """Another backend through a store in other words, which happen to be the same."""

    def __init__(self, below: Backend):
        from datastream._translated.rules import Translation
        from datastream._translated.source import TranslatedSource
        from datastream._upstream import Upstream

        self.below = below
        self.audited, self.moments = below.audited, below.moments
        self.may_reset, self.exact_resumes = below.may_reset, below.exact_resumes
        self.content_revisions, self.pace = below.content_revisions, below.pace
        self.commit, self.audit, self.peek = below.commit, below.audit, below.peek
        self.close = below.close
        same = Translation.of(None, None, None)
        self.source = lambda: TranslatedSource(
            Upstream(Store(below.source(), name="below"), owned=True), same
        )


class Document(Backend):
    """One JSON text in memory; the other program is another document over it."""

    may_reset = True
    content_revisions = True
    value_type = "str"

    def __init__(self):
        from datastream._upstream import Upstream
        from datastream.sources.document import DocumentSource
        from datastream.sources.memory import MemorySource

        name = f"history-{secrets.token_hex(6)}"
        # The table lives as long as a source over it does.
        self.keeper = MemorySource(name)
        self.source = lambda: DocumentSource(
            Upstream(Store(MemorySource(name), name="holder"), owned=True),
            "d.json",
            create=True,
        )
        self.other = self.source()

    def commit(self, changes):
        self.other.write([Write(key, value, "str") for key, value in changes.items()])

    def peek(self, key):
        entry = self.other.get(key)
        return entry.value if entry else None

    def close(self):
        self.other.close()
        self.keeper.close()


@contextmanager
def closing(backend):
    try:
        yield backend
    finally:
        backend.close()
