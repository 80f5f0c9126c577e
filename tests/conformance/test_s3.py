import secrets

import pytest
from datastream_grpc import GrpcSource, serve

from datastream import Store
from datastream.sources.s3 import S3Source
from datastream.testing import Conformance, Harness
from tests.servers.s3 import CREDENTIALS, client, s3_server


@pytest.fixture(scope="module")
def url():
    with s3_server() as url:
        yield url


class S3Harness(Harness):
    """A bucket of its own on a shared server."""

    def __init__(self, url, prefix=""):
        self.url = url
        self.prefix = prefix
        self.bucket = f"b-{secrets.token_hex(8)}"
        client(url).create_bucket(Bucket=self.bucket)

    def source(self):
        return S3Source(
            self.bucket, self.prefix, endpoint_url=self.url, interval=0.05, **CREDENTIALS
        )


class TestS3(Conformance):
    @pytest.fixture
    def harness(self, url):
        return S3Harness(url, "apps/one")


class ServedS3(S3Harness):
    def __init__(self, url):
        super().__init__(url)
        self.backing = Store(super().source(), name="served")
        self.server = serve(self.backing, "127.0.0.1:0")

    def source(self):
        source = GrpcSource(self.server.address)
        # The wire does not tell what the served store can do.
        source.features = self.backing.features
        return source

    def close(self):
        self.server.stop()
        self.backing.close()


class TestS3OverGrpc(Conformance):
    @pytest.fixture
    def harness(self, url):
        return ServedS3(url)
