"""``full.py PATH BYTES``: puts until no file may grow beyond BYTES; prints the error."""

import resource
import signal
import sys

import datastream

path, limit = sys.argv[1], int(sys.argv[2])
store = datastream.open(f"sqlite:{path}")
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
number = 0
try:
    while True:
        store.put_many({f"k/{number}/a": "x" * 5_000, f"k/{number}/b": "x" * 5_000})
        number += 1
except datastream.DatastreamError as error:
    print(number, flush=True)
    print(f"{type(error).__name__}: {error}", flush=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
