"""What watching has put beside a table, and its removal, also when the table has gone.

A table that is dropped, or that has lost a column, cannot be opened as a store; what was installed
for it is there still.
"""

from __future__ import annotations

from collections.abc import Iterator

from datastream.errors import DatastreamError
from datastream.sources._common.columns import Columns
from datastream.sources.postgres.connection import Connection
from datastream.sources.postgres.layout import find_relation, mark_of, tables
from datastream.sources.postgres.log import Traced, run, traces, uninstall_statements


class Removal:
    """Removes what is installed for one table; holds no connection.

    Args:
        schema: "" takes the table that the session finds, else any of its schemas.
        columns: as asked for.
        where: the table, for messages.
    """

    def __init__(self, schema: str, table: str, columns: Columns, where: str) -> None:
        self._schema = schema
        self._table = table
        self._columns = columns
        self._where = where

    def statements(self, db: Connection) -> list[str]:
        """All that removes it.

        Raises:
            DatastreamError: there is neither such a table nor anything left of one.
        """
        sought = list(self._sought(db))
        found = [trace for of in sought for trace in traces(db, of)]
        if not found and all(of.oid is None for of in sought):
            raise DatastreamError(
                f"{self._where}: no such table, and nothing is left of one; this role sees "
                f"{tables(db)}: name one with table= and schema="
            )
        return uninstall_statements(found)

    def run(self, db: Connection) -> None:
        """Remove it, in one transaction.

        Raises:
            DatastreamError: as for `statements`.
        """
        mark = mark_of(self._schema, self._table, self._columns)
        for of in self._sought(db):
            mark = of.mark
        run(db, mark, lambda: self.statements(db))

    def _sought(self, db: Connection) -> Iterator[Traced]:
        relation = find_relation(db, self._schema, self._table)
        schemas = [relation.schema] if relation else self._schemas(db)
        for schema in schemas:
            mark = mark_of(schema, self._table, self._columns)
            yield Traced(relation and relation.oid, schema, self._table, mark)

    def _schemas(self, db: Connection) -> list[str]:
        """Where the table may have been."""
        if self._schema:
            return [self._schema]
        rows = db.execute("SELECT pg_catalog.unnest(pg_catalog.current_schemas(false))::text")
        return [str(name) for (name,) in rows]
