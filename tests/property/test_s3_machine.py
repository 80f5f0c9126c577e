"""The random histories of `test_state_machine`, over S3: alone, and behind gRPC."""

import pytest
from datastream_grpc import GrpcSource, serve
from hypothesis import HealthCheck, settings

from datastream import Store
from datastream.sources.s3 import S3Source
from tests.property.test_state_machine import StoreMachine
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


class GrpcMachine(S3Machine):
    def open(self):
        self.served, elsewhere = super().open()
        elsewhere.close()
        self.server = serve(self.served, "127.0.0.1:0")
        address = self.server.address
        return Store(GrpcSource(address)), Store(GrpcSource(address))

    def teardown(self):
        super().teardown()
        self.server.stop()
        self.served.close()


def _case(machine, examples, steps):
    case = machine.TestCase
    case.settings = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    return case


TestS3 = _case(S3Machine, 6, 15)
TestS3OverGrpc = _case(GrpcMachine, 4, 15)
