"""A server, a bucket of its own for each test, and a proxy between that spoils requests."""

from __future__ import annotations

import pytest

from datastream import Store
from datastream.sources.s3 import S3Source
from tests.servers.s3 import CREDENTIALS, client, new_bucket, s3_server
from tests.servers.s3_proxy import Proxy


@pytest.fixture(scope="package")
def url():
    with s3_server() as url:
        yield url


@pytest.fixture
def proxy(url):
    with Proxy(url) as proxy:
        yield proxy


@pytest.fixture
def bucket(url):
    return new_bucket(url)


@pytest.fixture
def s3(url):
    """boto3, which passes the proxy by."""
    return client(url)


@pytest.fixture
def put(s3, bucket):
    """boto3 as the other writer."""

    def put(key, value=b"x", **more):
        return s3.put_object(Bucket=bucket, Key=key, Body=value, **more)

    return put


@pytest.fixture
def make_at(bucket, stack):
    """Opens stores on the bucket at a URL."""

    def make_at(url, prefix="", **options):
        given = {"endpoint_url": url, "interval": 0.05, **CREDENTIALS, **options}
        return stack.enter_context(Store(S3Source(bucket, prefix, **given), name="under test"))

    return make_at
