"""Another program on a database: ``sql.py PATH``. One statement a line, "ok" or the error back."""

import sqlite3
import sys

connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
for line in iter(sys.stdin.readline, ""):
    try:
        rows = connection.execute(line).fetchall()
        print(f"ok {rows}" if rows else "ok", flush=True)
    except sqlite3.Error as error:
        print(f"{type(error).__name__}: {error}", flush=True)
connection.close()
