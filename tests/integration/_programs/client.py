"""``client.py ADDRESS KEY…``: subscribes and prints each entry; ends with its stdin."""

import sys

import datastream

with datastream.open(f"grpc://{sys.argv[1]}") as store:
    store.watch(*sys.argv[2:]).subscribe(lambda entry: print(entry.key, flush=True))
    sys.stdin.read()
