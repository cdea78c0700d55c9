#!/usr/bin/env bash
# Generates the protobuf code of api/agent. protoc comes with the grpcio-tools wheel, the Go plugins from tools/go.mod.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=.cache/generate
version=1.85.1
if [[ ! -x $tools/$version/bin/python ]]; then
  echo "fetching protoc (grpcio-tools $version)" >&2
  rm -rf "${tools:?}/$version"
  python3 -m venv "$tools/$version"
  "$tools/$version/bin/pip" -q install "grpcio-tools==$version"
fi
for plugin in google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc; do
  go build -modfile tools/go.mod -o "$tools/bin/" "$plugin"
done
PATH="$PWD/$tools/bin:$PATH" "$tools/$version/bin/python" -m grpc_tools.protoc -I . \
  --go_out=. --go_opt=paths=source_relative \
  --go-grpc_out=. --go-grpc_opt=paths=source_relative \
  api/agent/v1alpha1/*.proto
