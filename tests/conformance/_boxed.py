"""A Source over rows that are values, through which the suite can put any value under any key."""

import base64
import json

from datastream.entry import Capability, Operation
from datastream.selection import Selection
from datastream.source import Source, Written

TENANT = "t"
"""The first column of the keys of several columns."""


class Boxed(Source):
    """Keeps value and type of each entry in the members ``content`` and ``kind`` of a row.

    Args:
        below: over a table whose key is ``tenant,name`` and whose value has these columns.
    """

    def __init__(self, below):
        self.below = below

    @property
    def features(self):
        return self.below.features

    @property
    def health(self):
        return self.below.health

    def capabilities(self):
        entries = self.read(Selection(), None).entries
        return [Capability(entry.key, entry.value_type) for entry in entries]

    def read(self, selection, since):
        reading = self.below.read(Selection.of(f"{TENANT}/"), since)
        return reading._replace(
            entries=[unboxed(entry) for entry in reading.entries],
            created=frozenset(map(inner, reading.created)),
        )

    def get(self, key):
        entry = self.below.get(f"{TENANT}/{key}")
        return None if entry is None else unboxed(entry)

    def get_value(self, key):
        entry = self.get(key)
        return None if entry is None else (entry.value, entry.value_type)

    def write(self, writes):
        answer = self.below.write([boxed(write) for write in writes])
        if isinstance(answer, Written):
            return answer._replace(entries=[unboxed(entry) for entry in answer.entries])
        return [unboxed(entry) for entry in answer]

    def translate(self, error, key):
        return self.below.translate(error, key)

    def wait(self, timeout):
        self.below.wait(timeout)

    def wake(self):
        self.below.wake()

    def compared(self, position, *, same):
        self.below.compared(position, same=same)

    def release(self):
        self.below.release()

    def close(self):
        self.below.close()


def inner(key):
    return key.removeprefix(f"{TENANT}/")


def boxed(write):
    key = f"{TENANT}/{write.key}"
    if write.value is None:
        return write._replace(key=key)
    content = base64.b64encode(write.value).decode()
    members = {"content": content, "kind": write.value_type}
    return write._replace(key=key, value=json.dumps(members).encode(), value_type="json")


def unboxed(entry):
    key = inner(entry.key)
    if entry.operation is Operation.DELETE:
        return entry._replace(key=key)
    members = entry.decode()
    value = base64.b64decode(members["content"])
    return entry._replace(key=key, value=value, value_type=members["kind"])
