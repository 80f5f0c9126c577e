"""Stores of every kind to mirror between."""

import secrets

import pytest
from datastream_grpc import serve

import datastream
from datastream import Store
from datastream.sources.memory import MemorySource
from datastream.sources.s3 import S3Source
from tests.repositories import Repository
from tests.servers.nats import new_bucket as new_nats_bucket
from tests.servers.nats import server
from tests.servers.s3 import CREDENTIALS, new_bucket, s3_server


@pytest.fixture(scope="package")
def s3_url():
    with s3_server() as url:
        yield url


@pytest.fixture(scope="package")
def nats_server():
    with server() as running:
        yield running


class Kinds:
    """Opens empty stores of a kind; each call a new one, the same again with `again`."""

    def __init__(self, stack, tmp_path, request):
        self._stack = stack
        self._path = tmp_path
        self._request = request
        self._count = 0

    def open(self, kind, **options):
        self._count += 1
        return self._stack.enter_context(getattr(self, f"_{kind}")(self._count, options))

    def _memory(self, number, options):
        return datastream.open("memory:")

    def _sqlite(self, number, options):
        return datastream.open(f"sqlite:{self._path}/{number}.db", create=True, **options)

    def _file(self, number, options):
        return datastream.open(f"file:{self._path}/{number}", create=True, **options)

    def _git(self, number, options):
        return datastream.open(f"git:{Repository.new(self._path / f'git{number}').path}", **options)

    def _fsspec(self, number, options):
        given = {"create": True, "interval": 0.05, **options}
        return datastream.open(f"memory://mirror{number}-{id(self)}", **given)

    def _postgres(self, number, options):
        url = self._request.getfixturevalue("postgres")
        joint = "&" if "?" in url else "?"
        return datastream.open(f"{url}{joint}table=t{number}", create=True, **options)

    def _s3(self, number, options):
        url = self._request.getfixturevalue("s3_url")
        given = {"endpoint_url": url, "interval": 0.1, **CREDENTIALS, **options}
        bucket = new_bucket(url)
        return Store(S3Source(bucket, **given), name=f"s3://{bucket}")

    def _nats(self, number, options):
        running = self._request.getfixturevalue("nats_server")
        return datastream.open(f"{running.url}/{new_nats_bucket()}", create=True, **options)

    def _grpc(self, number, options):
        backing = self._stack.enter_context(datastream.open("memory:"))
        server = serve(backing, "127.0.0.1:0")
        self._stack.callback(server.stop)
        return datastream.open(f"grpc://{server.address}", **options)


@pytest.fixture
def source(stack):
    return stack.enter_context(datastream.open("memory:"))


@pytest.fixture
def table():
    """The name of a table in memory, which several stores may open."""
    return secrets.token_hex(8)


@pytest.fixture
def other(stack, table):
    """Somebody else's store over the same table."""
    return stack.enter_context(Store(MemorySource(table), name="other"))


@pytest.fixture
def kinds(stack, tmp_path, request):
    return Kinds(stack, tmp_path, request)
