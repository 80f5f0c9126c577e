"""Commits batches of equal values to a file, and keeps a view of it with a cache, all the time.

Arguments: the database, the cache. Prints a line once the cache is there.
"""

import sys
from itertools import count

import datastream
from datastream._view import write_behind
from tests.integration._programs.tools import eventually

KEYS = [f"k{n}" for n in range(3000)]

write_behind.PAUSE = 0.0
write_behind.SHARE = 1.0

with datastream.open(f"sqlite:{sys.argv[1]}") as store:
    view = store.view(cache=sys.argv[2])
    for number in count():
        store.put_many(dict.fromkeys(KEYS, number))
        if number == 2:
            eventually(lambda: view._keeper.after._file.path.exists(), "a cache")
            print("there", flush=True)
