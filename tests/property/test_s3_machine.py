"""The random histories of `test_state_machine`, over S3: alone, and behind gRPC."""

import pytest

from datastream import Store
from datastream.sources.s3 import S3Source
from tests.property.machine import Served, StoreMachine, search, searched
from tests.servers.s3 import CREDENTIALS, client, new_bucket, s3_server


@pytest.fixture(scope="module", autouse=True)
def server():
    with s3_server() as url:
        S3Machine.url = url
        yield


class S3Machine(StoreMachine):
    url = ""

    def open(self):
        self.bucket = new_bucket(self.url)
        return Store(self.source()), Store(self.source())

    def source(self):
        return S3Source(self.bucket, "p", endpoint_url=self.url, interval=0.02, **CREDENTIALS)

    def raw(self, key, value):
        place = {"Bucket": self.bucket, "Key": f"p/{key}"}
        if value is None:
            client(self.url).delete_object(**place)
        else:
            client(self.url).put_object(**place, Body=value)

    def note(self, entry):
        """A revision tells the content, which may be there twice: there is no order of them."""


class GrpcMachine(Served, S3Machine):
    pass


@searched((S3Machine, 6, 15), (GrpcMachine, 4, 15))
@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_random_histories(machine, examples, steps):
    search(machine, examples, steps)
