"""Clients of one URL: ``many_clients.py URL NUMBER``.

Prints "ready" once all have a state. For each state in JSON, a line on stdin, it waits until all
clients have that, and prints "ok"; at the end of stdin it prints what went wrong, as JSON.
"""

import json
import sys
import threading

import datastream
from datastream import Operation

TIMEOUT = 120.0


class Client:
    """Watches everything. The numbers of each key only grow, so none may come twice or go back."""

    def __init__(self, url):
        self.store = datastream.open(url)
        self.state = {}
        self.highest = {}
        self.problems = []
        self.changed = threading.Condition()
        self.store.watch_batches().subscribe(self.take)

    def take(self, batch):
        with self.changed:
            for entry in batch.entries:
                self.take_entry(entry)
            self.changed.notify_all()

    def take_entry(self, entry):
        if entry.operation is Operation.DELETE:
            if self.state.pop(entry.key, None) is None:
                self.problems.append(f"a DELETE of {entry.key}, which was not there")
            return
        number = entry.decode()
        if number <= self.highest.get(entry.key, -1):
            self.problems.append(f"{entry.key} {number} after {self.highest[entry.key]}")
        self.state[entry.key] = self.highest[entry.key] = number

    def wait(self, done):
        with self.changed:
            if not self.changed.wait_for(lambda: done(self.state), TIMEOUT):
                self.problems.append(f"stays at {self.state}")


clients = [Client(sys.argv[1]) for _ in range(int(sys.argv[2]))]
for client in clients:
    client.wait(bool)
print("ready", flush=True)
for line in sys.stdin:
    expected = json.loads(line)
    for client in clients:
        client.wait(expected.__eq__)
    print("ok", flush=True)
print(json.dumps([problem for client in clients for problem in client.problems]), flush=True)
