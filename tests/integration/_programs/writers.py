"""Many writers on one SQLite file.

Every value is the number of its key, which only grows: ``c/*`` by compare-and-set or
``value + 1``, ``d/*`` come and go with a number from the row ``seq``, ``pair/a`` and ``pair/b``
change in one transaction and are always equal.
"""

import random
import sqlite3
import sys

import datastream

KEYS = 20
UPSERT = (
    "INSERT INTO data (key, value, value_type) VALUES (?1, ?2, 'int') "
    "ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)


def prepare(path):
    """The rows that all writers count up."""
    with datastream.open(f"sqlite:{path}") as store:
        counters = {f"c/{number}": 0 for number in range(KEYS)}
        store.put_many({**counters, "pair/a": 0, "pair/b": 0, "seq": 0})


def through_library(path, count, seed):
    choose = random.Random(seed)
    with datastream.open(f"sqlite:{path}", timeout=60.0) as store:
        for number in range(count):
            keys = ("pair/a", "pair/b") if number % 10 == 0 else (f"c/{choose.randrange(KEYS)}",)
            while not _add_one(store, keys):
                pass


def _add_one(store, keys):
    entries = store.snapshot(*keys)
    values = {key: entries[key].decode() + 1 for key in keys}
    try:
        store.put_many(values, expect={key: entries[key].revision for key in keys})
    except datastream.RevisionConflict:
        return False
    return True


def through_sqlite(path, count, seed):
    choose = random.Random(seed)
    connection = sqlite3.connect(path, isolation_level=None, timeout=60)
    connection.execute("PRAGMA synchronous=NORMAL")
    for number in range(count):
        connection.execute("BEGIN IMMEDIATE")
        if number % 10 == 0:
            _raise(connection, "key IN ('pair/a', 'pair/b')")
        elif number % 10 == 1:
            _come_or_go(connection, f"d/{choose.randrange(KEYS)}")
        else:
            _raise(connection, f"key = 'c/{choose.randrange(KEYS)}'")
        # One transaction in five comes to nothing: nobody may ever see its numbers.
        connection.execute("ROLLBACK" if number % 5 == 4 else "COMMIT")
    connection.close()


def _raise(connection, which):
    connection.execute(
        f"UPDATE data SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT) WHERE {which}"
    )


def _come_or_go(connection, key):
    _raise(connection, "key = 'seq'")
    if connection.execute("DELETE FROM data WHERE key = ?", (key,)).rowcount == 0:
        (number,) = connection.execute("SELECT value FROM data WHERE key = 'seq'").fetchone()
        connection.execute(UPSERT, (key, number))


HOW = {"library": through_library, "sqlite": through_sqlite}

if __name__ == "__main__":
    _, path, how, count, seed = sys.argv
    print("ready", flush=True)
    sys.stdin.readline()
    HOW[how](path, int(count), int(seed))
    print("done", flush=True)
