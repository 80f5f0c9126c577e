"""``increment.py URL KEY COUNT``: adds one to a key COUNT times, by compare-and-set."""

import sys

import datastream

url, key, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
lost = 0
with datastream.open(url) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(count):
        while True:
            entry = store.entry(key)
            try:
                store.put(key, entry.decode() + 1, expect=entry.revision)
                break
            except datastream.RevisionConflict:
                lost += 1
print(lost, flush=True)
