"""Serves a URL by processes: ``workers.py URL NUMBER``. Prints the address, then their pids."""

import sys

import datastream_grpc

with datastream_grpc.serve(sys.argv[1], "127.0.0.1:0", workers=int(sys.argv[2])) as server:
    print(server.address, flush=True)
    print(*server.pids, flush=True)
    sys.stdin.read()
