#!/usr/bin/env bash
# Generates transports/datastream_grpc/_pb from service.proto; needs grpcio-tools.
# The -I mapping makes protoc write imports that are right inside the package.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-transports}
mkdir -p "$out"
python -m grpc_tools.protoc -I datastream_grpc/_pb=proto/datastream_kv \
  -I "$(python -c 'import grpc_tools, os; print(os.path.join(os.path.dirname(grpc_tools.__file__), "_proto"))')" \
  --python_out="$out" --pyi_out="$out" datastream_grpc/_pb/service.proto
# Names in a pool of our own: stubs that somebody else has generated hold the same ones.
sed -i -e 's/^_sym_db = .*/from datastream_grpc._pb.pool import POOL/' \
  -e 's/_descriptor_pool\.Default()/POOL/' "$out/datastream_grpc/_pb/service_pb2.py"
