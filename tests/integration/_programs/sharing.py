"""Shares a store: ``sharing.py URL PATH``. Prints "ready" and every value of ``k``."""

import sys

import datastream_grpc

with datastream_grpc.shared(sys.argv[1], sys.argv[2]) as store:
    print("ready", flush=True)
    store.watch("k").subscribe(lambda entry: print(entry.decode(), flush=True))
    sys.stdin.read()
