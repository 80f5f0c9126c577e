"""Any backend behind gRPC."""

from datastream_grpc import GrpcSource, serve

from datastream import Store
from datastream.testing import Harness


class Served(Harness):
    """Sources under test are clients of a store over what `behind` gives sources of.

    Args:
        behind: of the backend.
        clients_write: the writer elsewhere is a client too, instead of one on the backend itself.
    """

    def __init__(self, behind, *, clients_write=False):
        self.behind = behind
        self.clients_write = clients_write
        self.backing = Store(behind.source(), name="served")
        self.server = serve(self.backing, "127.0.0.1:0")

    def source(self):
        return GrpcSource(self.server.address)

    def writer(self):
        return super().writer() if self.clients_write else self.behind.writer()

    def close(self):
        self.server.stop()
        self.backing.close()
        self.behind.close()
