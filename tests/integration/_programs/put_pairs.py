"""``put_pairs.py URL``: puts the same number under ``a`` and ``sub/b`` until it is killed."""

import itertools
import os
import sys

import datastream

store = datastream.open(sys.argv[1])
for number in itertools.count():
    store.put_many({"a": number, "sub/b": number, "sub/deep/c": number})
    os.write(1, b"%d\n" % number)
