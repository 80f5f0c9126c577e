"""``consuming.py URL PLACE TARGET CONCURRENCY [STEP NUMBER]``: keeps TARGET like the store.

Applies each change to the SQLite file TARGET, and keeps a log of them there. Kills itself the
NUMBER-th time it reaches STEP; else ends when its input does. A PLACE with a scheme is a store.
"""

import os
import signal
import sqlite3
import sys
import threading

import datastream
from datastream import Operation
from datastream._consume import file_place
from datastream.consume import Retry

url, place, target, concurrency, *crash = sys.argv[1:]
step, left = (crash[0], int(crash[1])) if crash else ("", 0)
lock = threading.Lock()


def reach(name):
    global left
    if name == step:
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)


def patched(write):
    def call(fd, data):
        reach("place")
        if step == "torn" and left == 1:
            write(fd, data[: len(data) // 2])
        reach("torn")
        size = write(fd, data)
        reach("written")
        return size

    return call


def replaced(sync):
    def call(path):
        reach("renamed")
        sync(path)

    return call


file_place._write = patched(file_place._write)
file_place._sync_directory = replaced(file_place._sync_directory)
if step == "renamed":
    file_place.SLACK = -(1 << 40)


def handle(entry):
    reach("called")
    value = entry.value.decode() if entry.operation is Operation.PUT else None
    with lock:
        if value is None:
            db.execute("DELETE FROM state WHERE key = ?", (entry.key,))
        else:
            db.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (entry.key, value))
        db.execute("INSERT INTO log (key, value) VALUES (?, ?)", (entry.key, value))
        db.commit()
    reach("handled")


db = sqlite3.connect(target, check_same_thread=False)
db.executescript(
    "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;"
    "CREATE TABLE IF NOT EXISTS state (key TEXT PRIMARY KEY, value TEXT);"
    "CREATE TABLE IF NOT EXISTS log (id INTEGER PRIMARY KEY, key TEXT, value TEXT);"
)
store = datastream.open(url)
kept = datastream.open(place) if ":" in place else place
consumer = store.consume(
    handle, exclude="consumer/**", place=kept, initial=True, retry=Retry(None, 0.01, 0.1),
    concurrency=int(concurrency),
)  # fmt: skip
os.write(1, b"ready\n")
sys.stdin.read()
consumer.flush(30)
consumer.stop()
if kept is not place:
    kept.close()
store.close()
