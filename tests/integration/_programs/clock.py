"""``clock.py URL YEAR``: a writer whose clock is wrong. Reads "key value" lines and puts them."""

import sys
from datetime import datetime, tzinfo

import datastream
from datastream.sources.sqlite import rows as _sqlite_rows


class WrongClock(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        return super().now(tz).replace(year=int(sys.argv[2]), day=1)


_sqlite_rows.datetime = WrongClock
with datastream.open(sys.argv[1]) as store:
    for line in iter(sys.stdin.readline, ""):
        key, value = line.split()
        entry = store.put(key, int(value))
        print(entry.updated_at.year, flush=True)
