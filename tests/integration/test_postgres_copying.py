"""Many new rows at once: by COPY where that stores what was sent, else as before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import psycopg
import pytest

import datastream
from datastream import Entry, InvalidValue
from datastream._columns import EntryColumns
from datastream._puts import Puts
from datastream.source import Write
from datastream.sources.postgres import copying
from tests.integration._programs.tools import Follower

MANY = 250
START = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
SHAPE = "key text PRIMARY KEY, value bytea, value_type text, updated_at timestamptz"
SHOUT = "CREATE TRIGGER o BEFORE INSERT ON data FOR EACH ROW EXECUTE FUNCTION shout()"


@pytest.fixture
def db(postgres):
    with psycopg.connect(postgres, autocommit=True) as connection:
        yield connection


@pytest.fixture
def copied(monkeypatch):
    """Whether each attempt to copy was of use."""
    outcomes, put = [], copying.Copying.put

    def spy(self, db, given):
        rows = put(self, db, given)
        outcomes.append(rows is not None)
        return rows

    monkeypatch.setattr(copying.Copying, "put", spy)
    return outcomes


@pytest.fixture
def role(db):
    schema = db.execute("SELECT current_schema").fetchone()[0]
    db.execute(f"CREATE ROLE r_{schema} LOGIN; GRANT USAGE ON SCHEMA {schema} TO r_{schema}")
    yield f"r_{schema}"
    db.execute(f"DROP OWNED BY r_{schema}; DROP ROLE r_{schema}")


def writes(**changes):
    return [Write(f"k/{n:03}", b"%d" % n, "int")._replace(**changes) for n in range(MANY)]


def held(stored):
    return {entry.key: entry for entry in stored}


def test_what_is_copied_is_returned_and_watched_as_it_is_read(postgres, copied):
    odd = [
        Write("\t\\N é\n'", b"\0\\.\n\t\xff", "bytes", None, START),
        Write("empty", b"", "", None, START - timedelta(days=700_000)),
        Write("far", b"1", "application/json; x=1", None, datetime.max.replace(tzinfo=UTC)),
    ]
    with datastream.open(postgres, create=True) as store:
        follower = Follower(store)
        stored = held(store.write(*writes(), *odd))
        assert copied == [True]
        assert stored == store.snapshot()
        assert stored["k/001"].updated_at is not None
        follower.wait_state({key: entry.value for key, entry in stored.items()})


@pytest.mark.parametrize(
    ("columns", "is_copied"),
    [
        (SHAPE, [True]),
        (SHAPE.replace("text", "varchar"), [True]),
        # Each value has to be looked at first.
        ("key text PRIMARY KEY, value text, updated_at timestamptz", [True]),
        ("key varchar(40) PRIMARY KEY, value bytea, value_type text", [True]),
        (f"{SHAPE}, CHECK (key <> 'none')", [True]),
        ("key text PRIMARY KEY, value jsonb", [False]),
    ],
)
def test_entries_are_put_as_they_are(postgres, db, copied, columns, is_copied):
    db.execute(f"CREATE TABLE data ({columns})")
    value_type = "json" if "jsonb" in columns else "str"
    moments = [START, None, datetime(2026, 5, 6, 7, 8, 9, tzinfo=timezone(timedelta(hours=-7)))]
    given = [
        Entry(f"k/{MANY - n:04}é", b"%d" % n, value_type, moments[n % 3], "") for n in range(MANY)
    ]
    with datastream.open(postgres) as store:
        follower = Follower(store)
        stored = store._write(Puts.of(EntryColumns.of(given)))
        assert copied == is_copied
        assert [entry.key for entry in stored] == sorted(entry.key for entry in given)
        assert held(stored) == store.snapshot()
        assert {entry.key: entry.value for entry in given} == {e.key: e.value for e in stored}
        follower.wait_state({entry.key: entry.value for entry in stored})


def test_entries_are_put_where_some_are_there(postgres, copied):
    given = [Entry(f"k/{n:03}", b"%d" % n, "int", None, "") for n in range(MANY)]
    with datastream.open(postgres, create=True) as store:
        store["k/007"] = 7
        store["k/008"] = 9
        before = store.entry("k/007")
        stored = held(store._write(Puts.of(EntryColumns.of(given))))
        assert not any(copied)
        assert stored == store.snapshot()
        assert (stored["k/007"], stored["k/008"].value) == (before, b"8")


@pytest.mark.parametrize(
    ("columns", "value_type", "is_copied"),
    [
        ("key varchar(40) PRIMARY KEY, value text", "str", True),
        ("n serial, key text UNIQUE, value text, updated_at timestamptz", "str", True),
        ("value bytea, n int GENERATED ALWAYS AS (octet_length(value)) STORED, "
         "value_type varchar, key text PRIMARY KEY", "int", True),
        # Stored otherwise than they were sent.
        ("key text PRIMARY KEY, value jsonb", "json", False),
        ("key text PRIMARY KEY, value char(9), value_type varchar(9)", "int", False),
        ("key text PRIMARY KEY, value bytea, value_type text, updated_at date", "int", False),
    ],
)  # fmt: skip
def test_tables_of_other_shapes(postgres, db, copied, columns, value_type, is_copied):
    db.execute(f"CREATE TABLE data ({columns})")
    with datastream.open(postgres) as store:
        stored = held(store.write(*writes(value_type=value_type)))
        assert copied == [is_copied]
        assert len(stored) == MANY
        assert stored == store.snapshot()


@pytest.mark.parametrize("key", ["k/000", "k/007"], ids=["among those looked for", "unforeseen"])
def test_a_key_that_is_there_is_updated(postgres, copied, key):
    with datastream.open(postgres, create=True) as store:
        store[key] = b"old"
        assert held(store.write(*writes())) == store.snapshot()
        assert (copied, store[key]) == ([False], int(key[2:]))


@pytest.mark.parametrize(
    ("statement", "seven"),
    [
        (SHOUT, b"70"),
        ("CREATE RULE others AS ON DELETE TO data DO ALSO NOTIFY others", b"7"),
        (
            "ALTER TABLE data RENAME TO old; CREATE TABLE data (LIKE old INCLUDING ALL); "
            f"{SHOUT}; GRANT ALL ON data TO PUBLIC",
            b"70",
        ),
        ("ALTER TABLE data ALTER value_type TYPE name", b"7"),
        ("ALTER TABLE data ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON data USING (true)", b"7"),
    ],
    ids=["trigger", "rule", "swapped", "altered", "policy"],
)
def test_what_may_alter_rows_or_refuse_copies_is_honoured(
    postgres, db, role, copied, statement, seven
):
    db.execute(
        f"CREATE TABLE data ({SHAPE}); CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql "
        "AS $$ BEGIN NEW.value := NEW.value || '0'; RETURN NEW; END $$; "
        f"GRANT ALL ON data TO {role}"
    )
    with datastream.open(f"{postgres}&user={role}", mode="poll") as store:
        # After the table was looked up.
        db.execute(statement)
        stored = held(store.write(*writes(value_type="x/" + 70 * "y")))
        assert not any(copied)
        assert stored == store.snapshot()
        assert stored["k/007"].value == seven


def test_what_the_table_refuses_is_named_and_nothing_is_stored(postgres, db, copied):
    db.execute(f"CREATE TABLE data ({SHAPE}, CHECK (value <> '200'))")
    with datastream.open(postgres) as store:
        with pytest.raises(InvalidValue, match="refuses"):
            store.write(*writes())
        assert (copied, len(store)) == ([False], 0)


def test_columns_beside_get_their_defaults_and_triggers_of_others_fire(postgres, db, copied):
    db.execute(
        f"CREATE TABLE data ({SHAPE}, n int DEFAULT 7); CREATE TABLE audit (n int); "
        "CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO audit VALUES (NEW.n); RETURN NULL; END $$; "
        "CREATE TRIGGER audit AFTER INSERT ON data FOR EACH ROW EXECUTE FUNCTION audit()"
    )
    with datastream.open(postgres) as store:
        store.write(*writes())
    assert copied == [True]
    assert db.execute("SELECT n, count(*) FROM audit GROUP BY n").fetchall() == [(7, MANY)]


@pytest.mark.parametrize("count", [2, MANY])
def test_times_of_the_hour_that_comes_twice_are_told_apart(postgres, copied, count):
    """In one zone they are equal to Python."""
    first = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    moments = [first.replace(fold=number % 2) for number in range(count)]
    with datastream.open(postgres, create=True) as store:
        store.write(*(w._replace(updated_at=m) for w, m in zip(writes(), moments, strict=False)))
        assert copied == [count >= copying.FEWEST]
        stored = [entry.updated_at for entry in store.snapshot().values()]
    assert stored == [moment.astimezone(UTC) for moment in moments]
