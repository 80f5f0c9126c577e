"""The descriptor pool of this package's messages.

In protobuf's own pool, names are unique in a process. Stubs that somebody has generated from
`service.proto`, of this version or another, and those of the ancestor have the same names.
"""

from google.protobuf import empty_pb2, timestamp_pb2
from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
for used in (empty_pb2, timestamp_pb2):
    POOL.AddSerializedFile(used.DESCRIPTOR.serialized_pb)
