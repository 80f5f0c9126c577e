"""The change log: triggers that record the key of every row touched, by any program.

The log says only *which* keys a transaction touched; what they hold now is read from the table
in the same statement. A position is a snapshot: what it does not see and the snapshot of now
does is what changed, however late its transaction committed (`position`). A line without keys
says that anything may have changed.

With each key is what the statement did to its existence: 1 it was made, -1 removed, 0 neither. The
sum over some transactions tells whether a key that is there or not was there before them, in
whatever order they committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from datastream.sources.postgres.connection import Connection
from datastream.sources.postgres.history import History
from datastream.sources.postgres.layout import Layout, literal, quoted

KEPT = 100_000
"""Changes the log keeps at least; a reader that missed more gets the full state again."""
KEYS_A_LINE = 1000
"""Most keys of one statement in one line of the log."""
LOCK_TIMEOUT = 2000
"""Milliseconds to wait for those who write the table while triggers are made."""
PRUNED_BY_WRITERS = 200_000
"""Changes after which, on average, a write cuts the log, also while nothing is watched."""
FORM = "2"
"""Of what is installed; another one is replaced."""
EVENTS = {
    "insert": "AFTER INSERT {} REFERENCING NEW TABLE AS new_rows",
    "update": "AFTER UPDATE {} REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows",
    "delete": "AFTER DELETE {} REFERENCING OLD TABLE AS old_rows",
    # Before it: afterwards the keys are gone.
    "truncate": "BEFORE TRUNCATE {}",
}


class Names(NamedTuple):
    """What is installed beside a table, quoted; and what the triggers notify, as it is."""

    channel: str
    log: str
    state: str
    history: str
    record: str
    prune: str

    @classmethod
    def of(cls, layout: Layout) -> Names:
        return cls.marked(layout.schema, layout.mark)

    @classmethod
    def marked(cls, schema: str, mark: str) -> Names:
        log, state, history, record, prune = (
            quoted(schema, mark + part) for part in ("", "_state", "_history", "_note", "_prune")
        )
        return cls(mark, log, state, history, f"{record}()", f"{prune}()")


def install_statements(layout: Layout, history: History | None) -> list[str]:
    """All that makes the log, in order, where there is none."""
    names = Names.of(layout)
    return [
        # Waits for running writers: what they have written would be in no log.
        f"LOCK TABLE {layout.name} IN SHARE ROW EXCLUSIVE MODE",
        f"CREATE TABLE {names.log} (xid xid8 NOT NULL DEFAULT pg_current_xact_id(), "
        "at timestamptz NOT NULL DEFAULT now(), size int NOT NULL, delta int, keys text[])",
        f"CREATE INDEX ON {names.log} (xid)",
        f"CREATE TABLE {names.state} (form text, epoch text, cut xid8, history text)",
        f"INSERT INTO {names.state} SELECT {literal(FORM)}, gen_random_uuid()::text, "
        f"pg_snapshot_xmin(pg_current_snapshot()), {literal(history.form if history else '')}",
        *(history.create_statements(names.history) if history else ()),
        *_function(names.prune, "void", _prune_body(names, history)),
        *_function(names.record, "trigger", _record_body(layout, names, history)),
        *(statement for event in EVENTS for statement in _trigger(layout, names, event)),
        _grants(layout, names, history),
    ]


def uninstall_statements(layout: Layout, marks: Iterable[str]) -> list[str]:
    """All that removes what has these marks; the table itself stays as it is."""
    statements = []
    for mark in marks:
        names = Names.marked(layout.schema, mark)
        for event in EVENTS:
            name = quoted(f"{mark}_{event}")
            statements.append(f"DROP TRIGGER IF EXISTS {name} ON {layout.name}")
        statements += [
            f"DROP FUNCTION IF EXISTS {names.record}",
            f"DROP FUNCTION IF EXISTS {names.prune}",
            f"DROP TABLE IF EXISTS {names.log}, {names.state}, {names.history}",
            # Watchers read at once, and poll from then on.
            f"NOTIFY {quoted(mark)}",
        ]
    return statements


def marks(connection: Connection, layout: Layout) -> list[str]:
    """Of all that is installed for this table, for any columns, or is left of it."""
    rows = connection.execute(
        "SELECT regexp_replace(tgname, '_[a-z]*$', '') FROM pg_trigger WHERE tgrelid = $1::oid "
        "AND starts_with(tgname, '_datastream_') "
        "UNION SELECT regexp_replace(relname, '_state$', '') FROM pg_class "
        "JOIN pg_namespace n ON n.oid = relnamespace "
        "WHERE n.nspname = $2::text AND relname = $3::text ORDER BY 1",
        (layout.oid, layout.schema, f"{layout.mark}_state"),
    ).fetchall()
    return [str(mark) for (mark,) in rows]


def run(connection: Connection, layout: Layout, statements: Callable[[], Iterable[str]]) -> None:
    """One transaction, one process at a time, that does not make others wait for long.

    Args:
        statements: called when no other process installs any more.
    """
    with connection.transaction():
        connection.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT}".encode())
        # DROP IF EXISTS of what is not there is worth no notice.
        connection.execute("SET LOCAL client_min_messages = warning")
        connection.execute("SELECT pg_advisory_xact_lock($1)", (_lock(layout),))
        for statement in statements():
            connection.execute(statement.encode())


def _lock(layout: Layout) -> int:
    return int(layout.mark.rpartition("_")[2], 16)


def _trigger(layout: Layout, names: Names, event: str) -> list[str]:
    timing = EVENTS[event].format(f"ON {layout.name}")
    name = quoted(f"{layout.mark}_{event}")
    return [
        f"CREATE TRIGGER {name} {timing} FOR EACH STATEMENT EXECUTE FUNCTION {names.record}",
        # Also for restores and replication, which switch triggers off.
        f"ALTER TABLE {layout.name} ENABLE ALWAYS TRIGGER {name}",
    ]


def _function(name: str, returns: str, body: str) -> list[str]:
    return [
        # With the rights of its owner: writers of the table need no rights on the log.
        f"CREATE FUNCTION {name} RETURNS {returns} LANGUAGE plpgsql SECURITY DEFINER "
        f"SET search_path = pg_catalog, pg_temp AS {literal(body)}",
        f"REVOKE ALL ON FUNCTION {name} FROM PUBLIC",
    ]


def _record_body(layout: Layout, names: Names, history: History | None) -> str:
    key = layout.key.quoted
    keep = {event: history.keep(names.history, event) if history else "" for event in EVENTS}
    made, removed, whole = (
        f"SELECT {key}::text AS key, {delta} AS delta FROM {rows} WHERE {key} IS NOT NULL"
        for rows, delta in (("new_rows", 1), ("old_rows", -1), (layout.name, -1))
    )
    updated = (
        f"SELECT key, sum(delta)::int AS delta FROM ({made} UNION ALL {removed}) AS u GROUP BY key"
    )
    anything = f"INSERT INTO {names.log} (size) VALUES (1)"
    return f"""
DECLARE touched bigint;
BEGIN
  -- An upsert fires the triggers of INSERT and of UPDATE, one of them with no rows.
  IF TG_OP = 'TRUNCATE' THEN
    SELECT count(*) INTO touched FROM (SELECT FROM {layout.name} LIMIT {KEPT}) AS t;
  ELSIF TG_OP = 'DELETE' THEN
    SELECT count(*) INTO touched FROM old_rows;
  ELSE
    SELECT count(*) INTO touched FROM new_rows;
  END IF;
  IF touched = 0 AND TG_OP <> 'TRUNCATE' THEN
    RETURN NULL;
  END IF;
  BEGIN
    IF TG_OP = 'INSERT' THEN
      {_log(names, made)}
      {keep["insert"]}
    ELSIF TG_OP = 'UPDATE' THEN
      {_log(names, updated)}
      {keep["update"]}
    ELSIF TG_OP = 'DELETE' THEN
      {_log(names, removed)}
      {keep["delete"]}
    ELSE
      -- A snapshot older than the lock may not show every row that goes.
      IF current_setting('transaction_isolation') = 'read committed' AND touched < {KEPT} THEN
        {_log(names, whole)}
      ELSE
        {anything};
      END IF;
      {keep["truncate"]}
    END IF;
  EXCEPTION WHEN syntax_error_or_access_rule_violation OR data_exception THEN
    -- The table was altered: its writers must not fail, and readers read everything.
    BEGIN
      {anything};
    EXCEPTION WHEN undefined_table THEN
      RETURN NULL;  -- somebody dropped the log: readers notice
    END;
  END;
  PERFORM pg_notify({literal(names.channel)}, '');
  IF random() * {PRUNED_BY_WRITERS} < touched THEN
    PERFORM {names.prune};
  END IF;
  RETURN NULL;
END
"""


def _log(names: Names, keys: str) -> str:
    """Many keys to a line: a line each would cost a COPY as much as its rows do."""
    into = (
        f"INSERT INTO {names.log} (size, delta, keys) SELECT count(*), delta, array_agg(key) FROM"
    )
    line = f"row_number() OVER () / {KEYS_A_LINE} AS line"
    return (
        f"IF touched <= {KEYS_A_LINE} THEN {into} ({keys}) AS k GROUP BY delta; ELSE {into} "
        f"(SELECT key, delta, {line} FROM ({keys}) AS k) AS n GROUP BY delta, line; END IF;"
    )


def _prune_body(names: Names, history: History | None) -> str:
    return f"""
DECLARE border xid8;
BEGIN
  -- Elsewhere deleting what another has deleted is an error, and the transaction is not ours.
  IF current_setting('transaction_isolation') <> 'read committed'
    OR NOT pg_try_advisory_xact_lock(hashtextextended({literal(names.prune)}, 0)) THEN
    RETURN;
  END IF;
  SELECT xid INTO border FROM (
    SELECT xid, sum(size) OVER (ORDER BY xid DESC) AS total FROM {names.log}
  ) AS l WHERE total > {KEPT} ORDER BY xid DESC LIMIT 1;
  IF border IS NOT NULL THEN
    border := least(border, pg_snapshot_xmin(pg_current_snapshot()));
    UPDATE {names.state} SET cut = greatest(cut, border);
    DELETE FROM {names.log} WHERE xid < border;
  END IF;
  {history.prune(names.history) if history else ""}
END
"""


def _grants(layout: Layout, names: Names, history: History | None) -> str:
    """Roles that may read the table may read its log and history."""
    tables = ", ".join([names.log, names.state, *([names.history] if history else [])])
    body = f"""
DECLARE who text;
BEGIN
  FOR who IN
    SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END
    FROM pg_class, aclexplode(relacl) WHERE oid = {layout.oid} AND privilege_type = 'SELECT'
  LOOP
    EXECUTE {literal(f"GRANT SELECT ON {tables} TO ")} || who;
  END LOOP;
END
"""
    return f"DO {literal(body)}"
