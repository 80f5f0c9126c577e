import secrets

import pytest

from datastream.sources.s3 import S3Source
from datastream.testing import Conformance, Harness
from tests.servers.s3 import CREDENTIALS, client, s3_server
from tests.servers.served import Served


@pytest.fixture(scope="module")
def url():
    with s3_server() as url:
        yield url


# The test server takes some 15 ms for each request, and eight clients count on one key.
pytestmark = pytest.mark.timeout(240)


class S3Harness(Harness):
    """A bucket of its own on a shared server, which takes some 15 ms for each request."""

    effort = 0.2

    def __init__(self, url, prefix=""):
        self.url = url
        self.prefix = prefix
        self.bucket = f"b-{secrets.token_hex(8)}"
        client(url).create_bucket(Bucket=self.bucket)

    def source(self):
        return S3Source(
            self.bucket, self.prefix, endpoint_url=self.url, interval=0.05, **CREDENTIALS
        )


@pytest.mark.chaos
class TestS3(Conformance):
    @pytest.fixture
    def harness(self, url):
        return S3Harness(url, "apps/one")


@pytest.mark.chaos
class TestS3OverGrpc(Conformance):
    @pytest.fixture
    def harness(self, url):
        return Served(S3Harness(url), clients_write=True)
