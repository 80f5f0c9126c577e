import sqlite3

import pytest

from datastream import Store
from datastream.sources.sqlite import SqliteSource
from datastream.testing import Conformance, Harness
from tests.conformance._boxed import Boxed


class SqliteHarness(Harness):
    """A file; `options` are those of the sources under test, not of the writer elsewhere."""

    def __init__(self, path, **options):
        self.path = path
        self.options = options
        SqliteSource(path, create=True).close()

    def source(self):
        return SqliteSource(self.path, **self.options)

    def writer(self):
        return Store(SqliteSource(self.path), name="elsewhere")


class TestSqlite(Conformance):
    @pytest.fixture
    def harness(self, tmp_path):
        return SqliteHarness(tmp_path / "store.db")


@pytest.mark.chaos
class TestSqliteWithoutTriggers(Conformance):
    """Told from states: `data_version` says when, a diff says what."""

    @pytest.fixture
    def harness(self, tmp_path):
        return SqliteHarness(tmp_path / "store.db", triggers=False)


@pytest.mark.chaos
class TestSqliteReadOnly(Conformance):
    @pytest.fixture
    def harness(self, tmp_path):
        return SqliteHarness(tmp_path / "store.db", readonly=True, triggers=False)


@pytest.mark.chaos
class TestSqliteView(Conformance):
    @pytest.fixture
    def harness(self, tmp_path):
        harness = SqliteHarness(tmp_path / "store.db", table="shown", key="name")
        with sqlite3.connect(harness.path) as db:
            db.execute(
                "CREATE VIEW shown AS SELECT key AS name, value, value_type, updated_at FROM data"
            )
        db.close()
        return harness


@pytest.mark.chaos
class TestSqliteForeignTable(Conformance):
    """A table made by somebody else, in the older journal mode and with constraints."""

    @pytest.fixture
    def harness(self, tmp_path):
        path = tmp_path / "app.db"
        with sqlite3.connect(path) as db:
            db.execute(
                'CREATE TABLE "my settings" (id INTEGER PRIMARY KEY, "the key" TEXT UNIQUE NOT '
                "NULL, v BLOB, kind TEXT, \"when\" TEXT, note TEXT NOT NULL DEFAULT '')"
            )
        db.close()
        columns = {"key": "the key", "value": "v", "value_type": "kind", "updated_at": "when"}
        harness = SqliteHarness(path, table="my settings", **columns)
        harness.writer = lambda: Store(harness.source(), name="elsewhere")
        return harness


class RowsHarness(Harness):
    """Rows as values, under keys of two columns."""

    def __init__(self, path, **options):
        self.options = {"table": "rows", "key": "tenant,name", "value": "*"} | options
        self.path = path
        with sqlite3.connect(path) as db:
            db.execute(
                "CREATE TABLE rows (tenant TEXT, name TEXT, content TEXT, kind TEXT, "
                "changed TEXT, other INTEGER DEFAULT 1, PRIMARY KEY (tenant, name))"
            )
        db.close()

    def source(self):
        return Boxed(SqliteSource(self.path, **self.options))

    def writer(self):
        return Store(self.source(), name="elsewhere")


@pytest.mark.chaos
class TestSqliteRows(Conformance):
    @pytest.fixture
    def harness(self, tmp_path):
        return RowsHarness(tmp_path / "app.db", updated_at="changed")


@pytest.mark.chaos
class TestSqliteSomeColumns(Conformance):
    """Without triggers, and without a time."""

    @pytest.fixture
    def harness(self, tmp_path):
        return RowsHarness(tmp_path / "app.db", value="content,kind", triggers=False)
