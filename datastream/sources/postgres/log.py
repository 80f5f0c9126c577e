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

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

import psycopg

from datastream.sources.postgres.connection import Connection, persistently
from datastream.sources.postgres.history import History
from datastream.sources.postgres.keys import key_of
from datastream.sources.postgres.layout import Layout, literal, quoted
from datastream.sources.postgres.spelling import SPELLING

KEPT = 100_000
"""Changes the log keeps at least; a reader that missed more gets the full state again."""
KEYS_A_LINE = 1000
"""Most keys of one statement in one line of the log."""
LOCK_TIMEOUT = 2000
"""Milliseconds to wait for those who write the table while triggers are made."""
PRUNED_BY_WRITERS = 200_000
"""Changes after which, on average, a write cuts the log, also while nothing is watched."""
FORM = "8"
"""Of what is installed; another one is replaced."""
_TABLE = "\0"
"""Stands for the table in a statement whose text is put together when it runs."""
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


def made_for(layout: Layout) -> dict[str, object]:
    """What the log is good for: kept in its state, and compared with what is wanted."""
    return {"form": FORM, "relation": layout.oid, "alone": layout.key.spells_alone}


def install_statements(layout: Layout, history: History | None) -> list[str]:
    """All that makes the log, in order, where there is none."""
    names = Names.of(layout)
    tables = [names.log, names.state, *([names.history] if history else [])]
    # What empties the table then empties its log, too.
    create = f"CREATE {'UNLOGGED ' if layout.is_unlogged else ''}TABLE"
    return [
        # Waits for running writers: what they have written would be in no log.
        f"LOCK TABLE {layout.name} IN SHARE ROW EXCLUSIVE MODE",
        f"{create} {names.log} (xid xid8 NOT NULL DEFAULT pg_current_xact_id(), "
        "at timestamptz NOT NULL DEFAULT now(), size int NOT NULL, delta int, keys text[])",
        f"CREATE INDEX ON {names.log} (xid)",
        # Every position names a line, so that none outlives a log that somebody empties.
        f"INSERT INTO {names.log} (size, keys) VALUES (0, '{{}}')",
        f"{create} {names.state} (form text, relation int8, alone bool, epoch text, "
        "cut xid8, history text, body text)",
        f"INSERT INTO {names.state} SELECT {literal(FORM)}, {layout.oid}, "
        f"{layout.key.spells_alone}, gen_random_uuid()::text, "
        "pg_snapshot_xmin(pg_current_snapshot()), "
        f"{literal(history.form if history else '')}",
        f"COMMENT ON TABLE {names.state} IS {literal(_remark(layout.name))}",
        *(history.create_statements(create, names.history) if history else ()),
        # Else nothing could be updated or deleted there once a publication is FOR ALL TABLES.
        *(f"ALTER TABLE {table} REPLICA IDENTITY FULL" for table in tables),
        *_function(names.prune, "void", _prune_body(names, history)),
        *_function(
            names.record,
            "trigger",
            _record_body(layout, names, history),
            # What needs no settings is not made to set them: that takes as long as to log a key.
            {} if layout.key.spells_alone and not history else {"row_security": "on", **SPELLING},
        ),
        f"UPDATE {names.state} SET body = {body_of(names)}",
        *(statement for event in EVENTS for statement in _trigger(layout, names, event)),
        *(statement for table in tables for statement in _readers(layout, table)),
        _grants(layout, tables),
    ]


def body_of(names: Names) -> str:
    """An expression: what stands for all that the triggers do. Others may replace it."""
    parts = "prosrc, proconfig, prosecdef, prolang, proowner"
    return (
        f"(SELECT pg_catalog.hashtextextended(pg_catalog.concat_ws(' ', {parts}), 0)::text "
        f"FROM pg_proc WHERE oid = to_regprocedure({literal(names.record)}))"
    )


def _remark(table: str) -> str:
    """By which what is left of a table is found that has another name by now."""
    return f"datastream: what changed in {table}"


class Trace(NamedTuple):
    """What is installed under one name, or is left of it."""

    schema: str
    mark: str
    triggers: list[str]
    """``name ON table``, quoted; the table may be another one by now."""
    is_of_name: bool
    """It was made for a table of the name that this one has."""


class Traced(NamedTuple):
    """A table whose traces are looked for."""

    oid: int | None
    """None if there is none of that name."""
    schema: str
    table: str
    mark: str
    """Of what may be there in part."""


def traces(connection: Connection, of: Traced) -> list[Trace]:
    """Of all that is installed for this table, for any columns, or was for one of its name."""
    rows = connection.execute(
        _TRACES.encode(), (of.oid, of.schema, of.mark, _remark(quoted(of.schema, of.table)))
    ).fetchall()
    return [Trace(*row) for row in rows]  # type: ignore[arg-type]


_TRACES = """
WITH found AS (
  SELECT pronamespace AS schema, pg_catalog.regexp_replace(proname, '_note$', '') AS mark
  FROM pg_trigger JOIN pg_proc p ON p.oid = tgfoid
  WHERE tgrelid = $1::oid AND pg_catalog.starts_with(proname, '_datastream_')
  UNION
  SELECT relnamespace, pg_catalog.regexp_replace(relname, '_state$', '') FROM pg_class c
  WHERE relname ~ '^_datastream_.*_state$'
    AND pg_catalog.obj_description(c.oid, 'pg_class') = $4::text
  UNION
  -- Part of it may have been dropped, or not restored.
  SELECT oid, $3::text FROM pg_namespace n WHERE nspname = $2::text AND (
    EXISTS (SELECT FROM pg_class WHERE relnamespace = n.oid
      AND relname IN ($3::text, $3::text || '_state', $3::text || '_history'))
    OR EXISTS (SELECT FROM pg_proc WHERE pronamespace = n.oid
      AND proname IN ($3::text || '_note', $3::text || '_prune'))
  )
)
SELECT nspname::text, mark, array(
  SELECT pg_catalog.format('%I ON %I.%I', tgname, t.nspname, relname)
  FROM pg_trigger JOIN pg_proc p ON p.oid = tgfoid JOIN pg_class c ON c.oid = tgrelid
  JOIN pg_namespace t ON t.oid = relnamespace
  WHERE pronamespace = schema AND proname = mark || '_note' AND NOT tgisinternal ORDER BY 1
), coalesce((
  SELECT pg_catalog.obj_description(oid, 'pg_class') FROM pg_class
  WHERE relnamespace = schema AND relname = mark || '_state'
), '') = $4::text
FROM found JOIN pg_namespace n ON n.oid = schema ORDER BY 1, 2
"""


def uninstall_statements(found: Iterable[Trace]) -> list[str]:
    """All that removes these; the table itself stays as it is."""
    statements = []
    for trace in found:
        names = Names.marked(trace.schema, trace.mark)
        statements += [f"DROP TRIGGER {trigger}" for trigger in trace.triggers]
        statements += [
            f"DROP FUNCTION IF EXISTS {names.record}",
            f"DROP FUNCTION IF EXISTS {names.prune}",
            f"DROP TABLE IF EXISTS {names.log}, {names.state}, {names.history}",
            # Watchers read at once, and poll from then on.
            f"NOTIFY {quoted(trace.mark)}",
        ]
    return statements


def begin_epoch(connection: Connection, layout: Layout) -> None:
    """Have no position from before be honoured: the table is written past the log."""
    state = Names.of(layout).state
    with suppress(psycopg.errors.UndefinedTable):
        connection.execute(f"UPDATE {state} SET epoch = gen_random_uuid()::text".encode())


def run(connection: Connection, mark: str, statements: Callable[[], Iterable[str]]) -> None:
    """One transaction, one process at a time, that does not make others wait for long.

    Others may hold what is dropped here while they wait for the table, as those do who read the log
    by an earlier edition. So it is tried again when the server ends such a deadlock.

    Args:
        mark: of what is made or removed.
        statements: called when no other process installs any more.
    """
    persistently(lambda: _run(connection, mark, statements))


def _run(connection: Connection, mark: str, statements: Callable[[], Iterable[str]]) -> None:
    with connection.transaction():
        connection.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT}".encode())
        # DROP IF EXISTS of what is not there is worth no notice.
        connection.execute("SET LOCAL client_min_messages = warning")
        connection.execute("SELECT pg_catalog.pg_advisory_xact_lock($1)", (_lock(mark),))
        for statement in statements():
            connection.execute(statement.encode())


def _lock(mark: str) -> int:
    return int(mark.rpartition("_")[2], 16)


def _trigger(layout: Layout, names: Names, event: str) -> list[str]:
    timing = EVENTS[event].format(f"ON {layout.name}")
    name = quoted(f"{layout.mark}_{event}")
    return [
        f"CREATE TRIGGER {name} {timing} FOR EACH STATEMENT EXECUTE FUNCTION {names.record}",
        # Also for restores and replication, which switch triggers off.
        f"ALTER TABLE {layout.name} ENABLE ALWAYS TRIGGER {name}",
    ]


def _function(
    name: str, returns: str, body: str, settings: Mapping[str, str] | None = None
) -> list[str]:
    settings = {"search_path": "pg_catalog, pg_temp", **(settings or {})}
    return [
        # With the rights of its owner: writers of the table need no rights on the log. And
        # spelling as readers do, whatever the writer's session has set.
        f"CREATE FUNCTION {name} RETURNS {returns} LANGUAGE plpgsql SECURITY DEFINER "
        + " ".join(f"SET {setting} = {value}" for setting, value in settings.items())
        + f" AS {literal(body)}",
        f"REVOKE ALL ON FUNCTION {name} FROM PUBLIC",
    ]


def _record_body(layout: Layout, names: Names, history: History | None) -> str:
    made, removed = (_keys(layout, *of) for of in (("new_rows", 1), ("old_rows", -1)))
    updated = (
        f"SELECT u.key, sum(u.delta)::int AS delta FROM ({made} UNION ALL {removed}) AS u "
        "GROUP BY u.key"
    )
    names_of_key = ", ".join(literal(column.name) for column in layout.keys)
    has_key = (
        f"{len(layout.keys)} = (SELECT count(*) FROM pg_attribute WHERE attrelid = TG_RELID "
        f"AND attname IN ({names_of_key}))"
    )
    # An exception handler would cost each statement a subtransaction. What could go wrong is asked
    # for instead, so that writers never fail: the table was altered, somebody dropped the log, or
    # the function's owner lost rights, as when tables get another owner.
    return f"""
#variable_conflict use_column
DECLARE
  _touched bigint;
  _has_key boolean;
  _log text;
  _nothing text;
BEGIN
  IF TG_OP = 'DELETE' THEN
    SELECT (SELECT count(*) FROM old_rows), {_have_key(layout, "old_rows")}
      INTO _touched, _has_key;
  ELSIF TG_OP = 'TRUNCATE' THEN
    _has_key := {has_key};
  ELSE
    SELECT (SELECT count(*) FROM new_rows), {_have_key(layout, "new_rows")}
      INTO _touched, _has_key;
  END IF;
  -- An upsert fires the triggers of INSERT and of UPDATE, one of them with no rows.
  IF _touched = 0 THEN
    RETURN NULL;
  END IF;
  IF TG_TABLE_SCHEMA <> {literal(layout.schema)}
    OR NOT has_schema_privilege({literal(layout.schema)}, 'USAGE')
    OR NOT {_takes_rows(names.log)} THEN
    {_elsewhere(names)}
    RETURN NULL;
  END IF;
  IF NOT _has_key THEN
    {_anything(names)}
  ELSIF TG_OP = 'INSERT' THEN
    {_log(names, made)}
  ELSIF TG_OP = 'UPDATE' THEN
    IF _touched = 1 THEN
      {_same(layout, names)};
    END IF;
    IF _touched > 1 OR NOT FOUND THEN
      {_log(names, updated)}
    END IF;
  ELSIF TG_OP = 'DELETE' THEN
    {_log(names, removed)}
  ELSIF current_setting('transaction_isolation') <> 'read committed'
    OR row_security_active(TG_RELID) OR NOT {_IS_READ} THEN
    -- A snapshot older than the lock may not show every row that goes; nor do policies.
    {_anything(names)}
  ELSE
    {_of_table(f"SELECT count(*) FROM (SELECT FROM {_TABLE} LIMIT {KEPT}) AS t")} INTO _touched;
    IF _touched < {KEPT} THEN
      {_of_table(_many(names, _keys(layout, _TABLE, -1)))};
    ELSE
      {_anything(names)}
    END IF;
  END IF;
  {_keep(history, names.history) if history else ""}
  -- An assignment is no statement for the executor, as PERFORM would be.
  _nothing := pg_notify({literal(names.channel)}, '');
  IF random() * {PRUNED_BY_WRITERS} < _touched
    AND has_function_privilege(to_regprocedure({literal(names.prune)}), 'EXECUTE') THEN
    PERFORM {names.prune};
  END IF;
  RETURN NULL;
END
"""


def _have_key(layout: Layout, rows: str) -> str:
    """Whether the table still has the columns of its key, told from the names alone.

    A name that is no column of `rows` means the column beside, of a type that no table has. To ask
    the catalogue takes as long as to log a key.
    """
    there = " AND ".join(
        f"pg_typeof((SELECT {column.quoted} FROM {rows} WHERE false)) <> 'void'::regtype"
        for column in layout.keys
    )
    missing = ", ".join(f"NULL::void AS {column.quoted}" for column in layout.keys)
    return f"(SELECT {there} FROM (SELECT {missing}) AS missing)"


def _keys(layout: Layout, rows: str, delta: int) -> str:
    # Qualified: a column may be called like a variable.
    key = key_of(layout, "r")
    return f"SELECT {key}::text AS key, {delta} AS delta FROM {rows} AS r WHERE {key} IS NOT NULL"


def _same(layout: Layout, names: Names) -> str:
    """Logs one row whose key is as it was: most updates, and nothing to sum up."""
    new, old = (f"{key_of(layout, row)}::text" for row in ("n", "o"))
    return (
        f"INSERT INTO {names.log} (size, delta, keys) SELECT 1, 0, ARRAY[{new}] "
        f'FROM new_rows AS n, old_rows AS o WHERE {new} = {old} COLLATE "C"'
    )


def _log(names: Names, keys: str) -> str:
    few = (
        f"INSERT INTO {names.log} (size, delta, keys) "
        f"SELECT count(*), k.delta, pg_catalog.array_agg(k.key) FROM ({keys}) AS k GROUP BY k.delta"
    )
    return f"IF _touched <= {KEYS_A_LINE} THEN {few}; ELSE {_many(names, keys)}; END IF;"


def _many(names: Names, keys: str) -> str:
    """Many keys to a line: a line each would cost a COPY as much as its rows do."""
    return (
        f"INSERT INTO {names.log} (size, delta, keys) "
        "SELECT count(*), n.delta, pg_catalog.array_agg(n.key) FROM (SELECT k.key, k.delta, "
        f"row_number() OVER () / {KEYS_A_LINE} AS line FROM ({keys}) AS k) AS n "
        "GROUP BY n.delta, n.line"
    )


def _anything(names: Names) -> str:
    return f"INSERT INTO {names.log} (size) VALUES (1);"


def _takes_rows(table: str) -> str:
    """Whether `table` is there and takes rows of the function's owner, who has to be its own: to
    others its policies let nothing in. Asked where the schema may be used."""
    found = f"to_regclass({literal(table)})"
    return (
        f"coalesce(has_table_privilege({found}, 'INSERT') AND NOT row_security_active({found}), "
        "false)"
    )


_IS_READ = "has_table_privilege(TG_RELID, 'SELECT')"
"""Whether the function's owner may read the table that is written."""


def _elsewhere(names: Names) -> str:
    """Writes to the log that is in the function's schema, whatever name that has by now, if it may.

    A schema that was renamed may get its name back; meanwhile another one may have it, with a log
    of its own.
    """
    return f"""
    SELECT c.oid::regclass INTO _log
      FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_class c
        ON c.relnamespace = p.pronamespace AND c.relname = {literal(names.channel)}
      WHERE t.tgrelid = TG_RELID AND t.tgname = TG_NAME
        AND has_schema_privilege(c.relnamespace, 'USAGE')
        AND has_table_privilege(c.oid, 'INSERT') AND NOT row_security_active(c.oid);
    IF _log IS NOT NULL THEN
      EXECUTE 'INSERT INTO ' || _log || ' (size) VALUES (1)';
    END IF;
    -- Those who wait then find out that nothing is logged any more.
    _nothing := pg_notify({literal(names.channel)}, '');"""


def _of_table(statement: str) -> str:
    """PL/pgSQL that runs what says `_TABLE`, under whatever name that table has by now."""
    before, after = statement.split(_TABLE)
    return f"EXECUTE {literal(before)} || TG_RELID::regclass || {literal(after)}"


def _keep(history: History, table: str) -> str:
    made, gone = "new_rows", "old_rows"
    kept = history.keep(table, made, _TABLE)
    keep = _of_table(kept) if history.layout.is_virtual else kept
    return f"""
  IF {_takes_rows(table)} AND {_IS_READ} AND {history.fits("TG_RELID")} THEN
    IF TG_OP = 'INSERT' THEN
      {keep};
    ELSIF TG_OP = 'UPDATE' THEN
      {history.keep_gone(table, gone, made)};
      {keep};
    ELSIF TG_OP = 'DELETE' THEN
      {history.keep_gone(table, gone)};
    ELSE
      {_of_table(history.keep_gone(table, _TABLE))};
    END IF;
  END IF;
"""


def _prune_body(names: Names, history: History | None) -> str:
    tables = [names.log, names.state, *([names.history] if history else [])]
    found = ", ".join(f"to_regclass({literal(table)})" for table in tables)
    return f"""
DECLARE border xid8;
BEGIN
  -- One may have been dropped, or be another role's by now.
  IF {len(tables)} > (SELECT count(*) FROM pg_class
    WHERE oid IN ({found}) AND pg_has_role(relowner, 'USAGE')) THEN
    RETURN;
  END IF;
  -- Elsewhere deleting what another has deleted is an error, and the transaction is not ours.
  IF current_setting('transaction_isolation') <> 'read committed'
    OR NOT pg_try_advisory_xact_lock(pg_catalog.hashtextextended({literal(names.prune)}, 0)) THEN
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


def _readers(layout: Layout, table: str) -> list[str]:
    """Only who sees every row of the table is shown what its log says of them."""
    sees = (
        f"pg_catalog.has_table_privilege({layout.oid}, 'SELECT') "
        f"AND NOT row_security_active({layout.oid})"
    )
    return [
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY readers ON {table} FOR SELECT USING ({sees})",
    ]


def _grants(layout: Layout, tables: list[str]) -> str:
    """Roles that may read the table may read its log and history."""
    body = f"""
DECLARE who text;
BEGIN
  FOR who IN
    SELECT CASE grantee
      WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_get_userbyid(grantee)) END
    FROM pg_class, aclexplode(coalesce(relacl, pg_catalog.acldefault('r', relowner)))
    WHERE oid = {layout.oid} AND privilege_type = 'SELECT'
  LOOP
    EXECUTE {literal(f"GRANT SELECT ON {', '.join(tables)} TO ")} || who;
  END LOOP;
END
"""
    return f"DO {literal(body)}"
