#!/usr/bin/env bash
# Generates the protobuf code of api/agent. protoc comes with the grpcio-tools wheel, the Go plugins from tools/go.mod.
#   scripts/generate.sh           writes the files
#   scripts/generate.sh --check   fails if the files in the tree are not what would be written; changes nothing
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly version=1.85.1
readonly sources=api/agent/v1alpha1
readonly tools="$PWD/.cache/generate"
readonly protoc="$tools/grpcio-tools-$version"

check=
case "${1:-}" in
'') ;;
--check) check=yes ;;
*)
  echo "usage: scripts/generate.sh [--check]" >&2
  exit 2
  ;;
esac

# No virtual environment: Debian's Python comes without venv. The wheel works without its dependencies.
if [[ ! -d $protoc ]]; then
  echo "generate: fetching protoc (grpcio-tools $version, once)" >&2
  mkdir -p "$tools"
  work=$(mktemp -d "$tools/fetch.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  if ! python3 -m pip --disable-pip-version-check install --quiet --no-deps --only-binary=:all: \
    --target "$work/tree" "grpcio-tools==$version" >"$work/pip.log" 2>&1; then
    cat "$work/pip.log" >&2
    echo "generate: protoc could not be had; it needs Python 3.10 or newer with pip" >&2
    exit 1
  fi
  mv -T "$work/tree" "$protoc" 2>/dev/null || [[ -d $protoc ]] # another run may have been first
fi

for plugin in google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc; do
  go build -modfile tools/go.mod -o "$tools/bin/" "$plugin"
done

# generate writes what belongs into the tree below the folder $1.
generate() {
  PATH="$tools/bin:$PATH" PYTHONPATH="$protoc" python3 -m grpc_tools.protoc -I . \
    --go_out="$1" --go_opt=paths=source_relative \
    --go-grpc_out="$1" --go-grpc_opt=paths=source_relative \
    "$sources"/*.proto
}

if [[ -z $check ]]; then
  rm -f "$sources"/*.pb.go
  generate .
  exit
fi

fresh=$(mktemp -d "$tools/check.XXXXXX")
trap 'rm -rf "${work:-}" "$fresh"' EXIT
generate "$fresh"
for file in "$sources"/*.pb.go; do
  if [[ ! -f $fresh/$file ]]; then
    echo "generate: $file has no source any more; run make generate" >&2
    exit 1
  fi
done
for file in "$fresh/$sources"/*.pb.go; do
  if ! diff -u "$sources/${file##*/}" "$file"; then
    echo "generate: $sources/${file##*/} is not what its source gives; run make generate" >&2
    exit 1
  fi
done
