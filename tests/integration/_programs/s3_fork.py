"""``s3_fork.py URL``: forks with a store open; the child is told, and opens its own."""

import os
import sys

import datastream

store = datastream.open(sys.argv[1])
assert store["a"] == 1
child = os.fork()
if not child:
    try:
        store.snapshot()
    except datastream.DatastreamError as error:
        print(error, flush=True)
    with datastream.open(sys.argv[1]) as own:
        print(f"opened again: {own['a']}", flush=True)
    store.close()
    os._exit(0)
os.waitpid(child, 0)
print(f"parent: {store['a']}", flush=True)
store.close()
