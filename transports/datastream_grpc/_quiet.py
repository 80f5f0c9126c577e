"""Before gRPC is imported: its C core logs to stderr what our errors and statuses say.

Such as each GOAWAY of a server that is pinged too often. Whoever wants that sets GRPC_VERBOSITY.
"""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
