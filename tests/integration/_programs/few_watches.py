"""``few_watches.py URL LIMIT COUNT``: watches where the system allows no more than COUNT watches.

Run it in a user namespace of its own, whose LIMIT it sets: ``max_inotify_watches`` or
``max_inotify_instances``. Prints every change as it comes, and warnings.
"""

import logging
import pathlib
import sys

import datastream

url, name, count = sys.argv[1:]
try:
    pathlib.Path("/proc/sys/user", name).write_text(count)
except OSError:
    print("skip", flush=True)
    sys.exit()
logging.basicConfig(stream=sys.stdout, format="warning %(message)s")
with datastream.open(url, interval=0.05) as store:
    store.watch().subscribe(lambda e: print(e.key, e.value.decode(), flush=True))
    print("ready", flush=True)
    sys.stdin.read()
