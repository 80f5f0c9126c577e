"""Two servers without state in front of one bucket: each goes on where the other one ended."""

import re
import subprocess
import sys
from contextlib import contextmanager

import pytest

import datastream
from datastream.testing import Recorder

pytestmark = pytest.mark.chaos


@contextmanager
def serving(url):
    """A ``datastream serve`` process; gives it and its address."""
    command = [sys.executable, "-m", "datastream.cli", "serve", url, "--address", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        # The place that is served comes first.
        address = re.findall(r"127\.0\.0\.1:\d+", process.stdout.readline())[-1]
        yield process, f"grpc://{address}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_client_goes_on_at_the_other_server(url):
    with datastream.open(url, create=True) as bucket, serving(url) as one, serving(url) as other:
        (process, first), (_, second) = one, other
        bucket.put_many({"a": 1, "b": 2, "gone": 3})
        with datastream.open(first) as client:
            recorder = Recorder(client)
            recorder.wait(lambda r: len(r.state) == 3)
            process.kill()
            process.wait()
            bucket["a"] = 10
            del bucket["gone"]
            with datastream.open(second) as again:
                resumed = Recorder(again, since=recorder.cursor, had=recorder.state)
                resumed.wait_state({"a": b"10", "b": b"2"})
                batch = resumed.batches[0]
                assert (batch.initial, batch.reset) == (True, False)
                assert {entry.key for entry in batch} == {"a", "gone"}
                again["c"] = 4
                resumed.wait(lambda r: r.state.get("c") == b"4")
                assert bucket["c"] == 4


def test_what_one_server_acknowledges_the_other_shows(url):
    with datastream.open(url, create=True), serving(url) as one, serving(url) as other:
        with datastream.open(one[1]) as writer, datastream.open(other[1]) as reader:
            watching = Recorder(reader, "k")
            watching.wait_ready()
            for number in range(20):
                writer["k"] = number
                assert reader["k"] == number
                assert reader.snapshot()["k"].decode() == number
            watching.wait_state({"k": b"19"})
            values = [int(entry.value) for entry in watching.entries]
            assert values == sorted(set(values))
