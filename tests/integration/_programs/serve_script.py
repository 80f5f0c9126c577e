"""A script as in the README: serves, says so, and goes on at once."""

import sys
import threading

import datastream_grpc

import datastream

store = datastream.open("memory:")
server = datastream_grpc.serve(store, "127.0.0.1:0")
print(server.address, flush=True)
sys.stdin.readline()
server.stop()
assert server.wait(0)
store.close()
print(*sorted(thread.name for thread in threading.enumerate()), flush=True)
