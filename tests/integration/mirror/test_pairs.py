"""Mirrors from one kind of store to another under random changes: they end exactly equal."""

import random

import pytest

import datastream
from datastream import Write, mirror
from tests.repositories import git_environment  # noqa: F401
from tests.servers.s3 import fill

PAIRS = [
    ("sqlite", "git"),
    ("git", "postgres"),
    ("postgres", "memory"),
    ("grpc", "sqlite"),
    ("sqlite", "sqlite"),
    ("git", "git"),
    ("memory", "grpc"),
    ("fsspec", "sqlite"),
    ("postgres", "fsspec"),
]
SERVED = [("sqlite", "nats"), ("nats", "memory"), ("nats", "git")]
BUCKETS = [("s3", "file"), ("file", "s3")]
QUICK = [("file", "sqlite"), ("grpc", "memory")]
TYPES = {"txt": "text/plain", "json": "application/json", "bin": "application/octet-stream"}


class Changes:
    """Random batches of changes, of types that every kind of store keeps."""

    def __init__(self, seed, keys=120):
        self.random = random.Random(seed)
        names = [f"{folder}k{n}" for n in range(keys // 4) for folder in ("", "a/", "a/b/", "c d/")]
        self.keys = [f"{name}.{end}" for name, end in zip(names, list(TYPES) * keys, strict=False)]

    def batch(self, most):
        keys = self.random.sample(self.keys, self.random.randint(1, most))
        return [self.write(key) for key in keys]

    def write(self, key):
        if self.random.random() < 0.3:
            return Write(key, None)
        end = key.rpartition(".")[2]
        number, more = self.random.randint(0, 10**6), "x" * self.random.choice((0, 0, 3000))
        value = {"txt": f"text {number}", "json": f'{{"n":{number}}}', "bin": f"\0{number}"}[end]
        return Write(key, (value if end == "json" else value + more).encode(), TYPES[end])


def make_changes(write, changes, total):
    done = 0
    while done < total:
        batch = changes.batch(20)
        write(*batch)
        done += len(batch)


def past_http(store):
    """Writes to a bucket as another program does, without three requests for each object."""
    bucket = store.name.removeprefix("s3://")
    return lambda *writes: fill(bucket, {write.key: write.value for write in writes})


def run(source, target, place, seed, total, write=None, rests=1):
    changes, write = Changes(seed), write or source.write
    make_changes(write, changes, total // 10)
    with mirror(source, target, place=place, delete_limit=1.0) as running:
        assert running.ready(60)
        for _ in range(rests):
            make_changes(write, changes, total // rests)
            assert running.flush(400)
        assert running.refused == {}
    assert held(source) == held(target)
    assert list(datastream.diff(source, target)) == []


def held(store):
    return {key: entry.value for key, entry in store.snapshot().items()}


@pytest.mark.parametrize("pair", QUICK, ids="-".join)
def test_a_few_changes(kinds, tmp_path, pair):
    run(*map(kinds.open, pair), tmp_path / "place", 1, 150)


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_ten_thousand_changes(kinds, tmp_path, pair):
    run(*map(kinds.open, pair), tmp_path / "place", 2, 10_000)


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("s3_url")
@pytest.mark.parametrize("pair", BUCKETS, ids="-".join)
def test_ten_thousand_changes_with_a_bucket(kinds, tmp_path, pair):
    source, target = map(kinds.open, pair)
    write = past_http(source) if pair[0] == "s3" else None
    # Each rest of the bucket's writer is a state that the mirror has to have seen.
    run(source, target, tmp_path / "place", 3, 10_000, write, rests=20 if write else 1)


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("nats_server")
@pytest.mark.parametrize("pair", SERVED, ids="-".join)
def test_ten_thousand_changes_with_nats(kinds, tmp_path, pair):
    run(*map(kinds.open, pair), tmp_path / "place", 4, 10_000)
