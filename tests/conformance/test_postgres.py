import psycopg
import pytest

from datastream import Store
from datastream.sources.postgres import PostgresSource
from datastream.testing import Conformance, Harness
from tests.conformance._boxed import Boxed
from tests.servers.served import Served


class PostgresHarness(Harness):
    """A schema; `options` are those of the sources under test, not of the writer elsewhere."""

    def __init__(self, url, *statements, **options):
        self.url = url
        self.options = options
        PostgresSource(url, create=True, mode="poll").close()
        with psycopg.connect(url) as connection:
            for statement in statements:
                connection.execute(statement)

    def source(self):
        return PostgresSource(self.url, **self.options)

    def writer(self):
        return Store(PostgresSource(self.url), name="elsewhere")


class TestPostgres(Conformance):
    @pytest.fixture
    def harness(self, postgres):
        return PostgresHarness(postgres, mode="notify")


@pytest.mark.chaos
class TestPostgresPolled(Conformance):
    """Told from states, looked at so often that no test waits for long."""

    @pytest.fixture
    def harness(self, postgres):
        return PostgresHarness(postgres, mode="poll", interval=0.05)


@pytest.mark.chaos
class TestPostgresView(Conformance):
    @pytest.fixture
    def harness(self, postgres):
        view = "CREATE VIEW shown AS SELECT key AS name, value, value_type, updated_at FROM data"
        return PostgresHarness(postgres, view, table="shown", key="name", interval=0.05)


@pytest.mark.chaos
class TestPostgresForeignTable(Conformance):
    """A table made by somebody else, with other columns and constraints."""

    @pytest.fixture
    def harness(self, postgres):
        table = (
            'CREATE TABLE "my %s ""settings""" (id serial PRIMARY KEY, "the key" varchar UNIQUE '
            "NOT NULL, v bytea, kind varchar(300), \"when\" timestamp, note text DEFAULT '')"
        )
        columns = {"key": "the key", "value": "v", "value_type": "kind", "updated_at": "when"}
        harness = PostgresHarness(postgres, table, table='my %s "settings"', **columns)
        harness.writer = lambda: Store(harness.source(), name="elsewhere")
        return harness


class RowsHarness(PostgresHarness):
    """Rows as values, under keys of two columns."""

    def __init__(self, url, **options):
        table = (
            "CREATE TABLE rows (tenant text, name text, content text, kind text, "
            "changed timestamptz, other int DEFAULT 1, PRIMARY KEY (tenant, name))"
        )
        columns = {"table": "rows", "key": "tenant,name", "value": "*"}
        super().__init__(url, table, **columns | options)

    def source(self):
        return Boxed(super().source())

    def writer(self):
        return Store(self.source(), name="elsewhere")


@pytest.mark.chaos
class TestPostgresRows(Conformance):
    @pytest.fixture
    def harness(self, postgres):
        return RowsHarness(postgres, mode="notify", updated_at="changed")


@pytest.mark.chaos
class TestPostgresSomeColumns(Conformance):
    """Polled, and without a time."""

    @pytest.fixture
    def harness(self, postgres):
        return RowsHarness(postgres, value="content,kind", mode="poll", interval=0.05)


@pytest.mark.chaos
class TestPostgresBehindGrpc(Conformance):
    @pytest.fixture
    def harness(self, postgres):
        return Served(PostgresHarness(postgres), clients_write=True)
