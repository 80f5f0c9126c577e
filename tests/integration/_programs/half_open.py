"""Opens streams that never send a request, or whose answers are never read, until stdin ends."""

import asyncio
import sys

from datastream_grpc._pb import service_pb2 as pb
from grpc import aio

CONNECTIONS = 10


async def main(address, streams):
    options = [("grpc.use_local_subchannel_pool", 1)]
    calls = []
    channels = [aio.insecure_channel(address, options) for _ in range(CONNECTIONS)]
    for channel in channels:
        push = channel.stream_stream("/datastream.DataService/Push")
        calls += [push() for _ in range(streams // CONNECTIONS)]
        subscribe = channel.unary_stream("/datastream.DataService/Subscribe")
        request = pb.DataRequest().SerializeToString()
        calls += [subscribe(request) for _ in range(streams // CONNECTIONS // 10)]
    for channel in channels:
        await channel.channel_ready()
    print("open", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for channel in channels:
        await channel.close()


asyncio.run(main(sys.argv[1], int(sys.argv[2])))
