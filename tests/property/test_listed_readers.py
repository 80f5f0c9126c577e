"""Readers of what is listed, all at once: none takes an old content for the new one."""

from __future__ import annotations

import random
import secrets
import threading
import time
import zipfile

import pytest

from datastream.selection import Selection
from datastream.sources.filesystem import FilesystemSource
from tests.property.test_files_readers import (
    KEYS,
    PATIENCE,
    SECONDS,
    SEEDS,
    SELECTIONS,
    Reader,
    Truth,
)
from tests.servers.s3 import CREDENTIALS, client, new_bucket, s3_server


@pytest.fixture(scope="module", autouse=True)
def s3_url():
    """Begins before the tests do, which leave no thread behind."""
    with s3_server() as url:
        yield url


class Memory:
    def __init__(self, request):
        from fsspec.implementations.memory import MemoryFileSystem

        self._root = f"/{secrets.token_hex(8)}"
        self._files = MemoryFileSystem()
        self._files.makedirs(self._root)
        self.source = FilesystemSource(f"memory:/{self._root}")

    def make(self, before, after):
        for key in before.keys() - after.keys():
            self._files.rm_file(f"{self._root}/{key}")
        for key, value in after.items():
            if before.get(key) != value:
                self._files.pipe_file(f"{self._root}/{key}", value)


class Zip:
    """Replaced as a whole."""

    def __init__(self, request):
        self._path = request.getfixturevalue("tmp_path") / "a.zip"
        self.make({}, {})
        self.source = FilesystemSource(f"zip:{self._path}")

    def make(self, before, after):
        draft = self._path.with_suffix(".new")
        with zipfile.ZipFile(draft, "w") as archive:
            for key, value in after.items():
                archive.writestr(key, value)
        draft.rename(self._path)


class S3:
    def __init__(self, request):
        from datastream.sources.s3 import S3Source

        url = request.getfixturevalue("s3_url")
        self._bucket, self._client = new_bucket(url), client(url)
        self.source = S3Source(self._bucket, endpoint_url=url, **CREDENTIALS)

    def make(self, before, after):
        for key in before.keys() - after.keys():
            self._client.delete_object(Bucket=self._bucket, Key=key)
        for key, value in after.items():
            if before.get(key) != value:
                self._client.put_object(Bucket=self._bucket, Key=key, Body=value)


def change(backend, truth, chance):
    """What another program does to one key or two."""
    state = dict(truth.now)
    for key in chance.sample(KEYS, chance.randrange(1, 3)):
        state.pop(key, None)
        if chance.random() < 0.7:
            state[key] = b"%d" % chance.randrange(4)
    before = truth.now
    truth.begin(state)
    backend.make(before, state)
    truth.end()


@pytest.mark.parametrize("backend", [Memory, Zip, S3])
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_what_any_reader_has_was_there(request, backend, seed):
    chance, truth = random.Random(seed), Truth()
    backend = backend(request)
    ends, errors = threading.Event(), []

    def read(selection):
        reader = Reader(backend.source, selection, truth)
        try:
            while not ends.is_set():
                reader.step(reader.position, reader.state if reader.position is not None else {})
        except Exception as error:
            errors.append(error)

    parts = [Selection(), Selection(), *chance.sample(list(SELECTIONS.values()), 2)]
    threads = [threading.Thread(target=read, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    until = time.monotonic() + SECONDS
    try:
        while time.monotonic() < until and not errors:
            change(backend, truth, chance)
            time.sleep(chance.choice((0, 0.001, 0.01)))
    finally:
        ends.set()
        for thread in threads:
            thread.join(PATIENCE)
        backend.source.close()
    if errors:
        raise errors[0]
