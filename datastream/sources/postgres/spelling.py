"""The settings of a session that decide how PostgreSQL spells a value."""

from __future__ import annotations

SPELLING = {
    "TimeZone": "'UTC'",
    "DateStyle": "'ISO, MDY'",
    "IntervalStyle": "'postgres'",
    "extra_float_digits": "1",
    "bytea_output": "'hex'",
    "lc_monetary": "'C'",
    "xmlbinary": "'base64'",
    "quote_all_identifiers": "off",
}
"""One spelling, whatever role, database and writer have set: in each session of a source, and in
the function of the triggers, which runs in the writers' sessions."""
