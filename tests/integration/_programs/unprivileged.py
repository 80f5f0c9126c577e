"""``unprivileged.py URL``: watches as nobody, who may not read everything; answers questions.

``state``, ``status`` and ``degraded`` print what the watcher has and how the store stands, ``list``
its keys, ``all`` those of a snapshot, ``get KEY`` a value, ``put KEY VALUE`` its revision, or the
error.
"""

import json
import os
import sys
import tempfile

import datastream

# Whatever is imported on use is imported now: the new user may not be able to read it.
with tempfile.TemporaryDirectory() as folder, datastream.open(f"file:{folder}") as store:
    store.watch().subscribe()
    store.put_many({"a": 1, "b": 1.5})
    store.capabilities()
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
with datastream.open(sys.argv[1]) as store:
    state, statuses = {}, []

    def take(entry):
        if entry.operation is datastream.Operation.DELETE:
            state.pop(entry.key, None)
        else:
            state[entry.key] = entry.value.decode()

    store.status.subscribe(statuses.append)
    store.watch().subscribe(take)
    print("ready", flush=True)
    for line in sys.stdin:
        question, *rest = line.split()
        try:
            if question == "state":
                answer = json.dumps(dict(state), sort_keys=True)
            elif question == "status":
                store.refresh()
                answer = str(statuses[-1].state)
            elif question == "degraded":
                store.refresh()
                answer = store.status.current.degraded
            elif question == "get":
                answer = store[rest[0]]
            elif question == "list":
                answer = " ".join(sorted(store))
            elif question == "all":
                answer = " ".join(sorted(store.snapshot()))
            else:
                answer = store.put(*rest).revision
        except datastream.DatastreamError as error:
            answer = type(error).__name__
        print(answer, flush=True)
