"""A table or view of PostgreSQL as a source."""

from datastream.sources.postgres.source import PostgresSource, open_postgres

__all__ = [
    "PostgresSource",
    "open_postgres",
]
