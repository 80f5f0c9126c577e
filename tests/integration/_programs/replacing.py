"""``replacing.py DIRECTORY COUNT``: puts to a watched file that is replaced all the time."""

import shutil
import sqlite3
import sys
from contextlib import suppress
from pathlib import Path

import datastream

directory, count = Path(sys.argv[1]), int(sys.argv[2])
path = directory / "app.db"
with sqlite3.connect(path) as db:
    db.execute("CREATE TABLE data (key TEXT PRIMARY KEY, value)")
db.close()
# No pause between looks at the file: each is a chance to look while it is being changed.
with datastream.open(f"sqlite:{path}", interval=0.001) as store:
    store.watch().subscribe(lambda entry: None)
    for number in range(count):
        shutil.copy(path, directory / "copy")
        (directory / "copy").replace(path)
        # A commit into a file that is replaced just then fails, and says so.
        with suppress(datastream.SourceUnavailable):
            store["k"] = number
            assert store["k"] == number
print("done", flush=True)
