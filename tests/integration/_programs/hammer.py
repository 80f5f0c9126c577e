"""``hammer.py URL put|put_many BATCH``: writes until it is killed, and says what was acknowledged.

``put`` writes ``k/N = N``; ``put_many`` writes ``b/N/0 … b/N/(BATCH-1) = N`` in one go.
"""

import itertools
import os
import sys

import datastream

url, how, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = datastream.open(url)
for number in itertools.count():
    if how == "put":
        store.put(f"k/{number}", number)
    else:
        store.put_many({f"b/{number}/{part}": number for part in range(size)})
    os.write(1, b"%d\n" % number)
