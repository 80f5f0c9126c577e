"""Mirrors until it kills itself: ``mirroring.py SOURCE TARGET PLACE STEP COUNT``.

PLACE is a file, or "" for the target itself. STEP names the moment, COUNT how often it comes before
that: ``before-write``, ``after-write`` of the target; ``before-place``, ``in-place``,
``after-place`` of a place in a file; ``never``. Prints each new state of the mirror.
"""

import os
import signal
import sys
from pathlib import Path

import datastream
from datastream._mirror.progress import InFile

source, target, place, step, count = sys.argv[1:]
left = int(count)


def die(now):
    global left
    if now == step:
        left -= 1
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


def around(function, name):
    def call(*args, **kwargs):
        die(f"before-{name}")
        answer = function(*args, **kwargs)
        die(f"after-{name}")
        return answer

    return call


def replace(self, other, real=Path.replace):
    die("in-place")
    return real(self, other)


InFile.save = around(InFile.save, "place")
Path.replace = replace
with datastream.open(source) as a, datastream.open(target) as b:
    b._write = around(b._write, "write")
    with datastream.mirror(a, b, place=place or None, delete_limit=1.0) as running:
        running.status.subscribe(lambda status: print(status.state, status.error, flush=True))
        sys.stdin.read()
