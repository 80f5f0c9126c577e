"""Serves a store: ``server.py URL ADDRESS``. Prints the address, ends with its stdin."""

import sys

import datastream_grpc

import datastream

with datastream.open(sys.argv[1]) as store, datastream_grpc.serve(store, sys.argv[2]) as server:
    print(server.address, flush=True)
    sys.stdin.read()
