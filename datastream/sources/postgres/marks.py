"""SQL expressions that change when a relation or its triggers do.

Every statement that depends on a catalogue look-up selects one of them: so what was looked up is
never used for a relation that has changed since.
"""

from __future__ import annotations


def catalogue_marks(oid: int) -> str:
    """An expression that changes when the table or our triggers do, in two parts."""
    return f"concat({layout_mark(oid)}, '/', {trigger_mark(oid)})"


def layout_mark(oid: int) -> str:
    """An expression that changes when the relation or its columns do; NULL without it."""
    return (
        "(SELECT hashtextextended(concat_ws(' ', c.oid, c.relkind, c.relispartition, "
        "(SELECT string_agg(concat_ws(' ', attnum, attname, atttypid, atttypmod), '/' "
        "ORDER BY attnum) FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 "
        f"AND NOT attisdropped)), 0) FROM pg_class c WHERE c.oid = {oid})"
    )


def trigger_mark(oid: int) -> str:
    """An expression that changes when a trigger of ours comes, goes or is switched off."""
    return (
        "(SELECT hashtextextended(string_agg(concat_ws(' ', oid, xmin, tgenabled), '/' "
        f"ORDER BY oid), 0) FROM pg_trigger WHERE tgrelid = {oid} "
        "AND starts_with(tgname, '_datastream_'))"
    )
