#!/usr/bin/env bash
# Generates transports/datastream_grpc/_pb from service.proto; needs grpcio-tools.
# The -I mapping makes protoc write imports that are right inside the package.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-transports}
mkdir -p "$out"
python -m grpc_tools.protoc -I datastream_grpc/_pb=proto/datastream \
  -I "$(python -c 'import grpc_tools, os; print(os.path.join(os.path.dirname(grpc_tools.__file__), "_proto"))')" \
  --python_out="$out" --pyi_out="$out" datastream_grpc/_pb/service.proto
