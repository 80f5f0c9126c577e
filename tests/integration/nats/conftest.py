import pytest

import datastream
from tests.servers.nats import new_bucket, server


@pytest.fixture(scope="session")
def running():
    """A server for all tests that do not stop or kill theirs."""
    with server() as one:
        yield one


@pytest.fixture
def bucket():
    return new_bucket()


@pytest.fixture
def url(running, bucket):
    """Of a bucket that is not there yet."""
    return f"{running.url}/{bucket}"


@pytest.fixture
def store(url):
    with datastream.open(url, create=True) as store:
        yield store
