"""A table or view of PostgreSQL as a source."""

from datastream.sources.postgres.source import PostgresSource, open_postgres, open_remains

__all__ = [
    "PostgresSource",
    "open_postgres",
    "open_remains",
]
