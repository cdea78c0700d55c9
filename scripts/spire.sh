#!/usr/bin/env bash
# Prints the folder that holds spire-server and spire-agent, building them from the module proxy where they are not there
# yet: once, some ten minutes on two cores. The versions are those of tools/spire.mod. SPIRE stores in SQLite, so a C
# compiler is needed, for this alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=$(sed -nE 's|^[[:space:]]*github.com/spiffe/spire (v[0-9.]+).*|\1|p' tools/spire.mod)
[[ -n $version ]] || {
  echo "spire: tools/spire.mod names no version of github.com/spiffe/spire" >&2
  exit 1
}
readonly folder="$PWD/.cache/spire/$version"

if [[ ! -x $folder/spire-server || ! -x $folder/spire-agent ]]; then
  command -v "${CC:-cc}" >/dev/null || {
    echo "spire: building SPIRE needs a C compiler (its store is SQLite): install one, such as Debian's gcc, or set CC" >&2
    exit 1
  }
  echo "spire: building spire-server and spire-agent $version (once, some ten minutes)" >&2
  mkdir -p "${folder%/*}"
  work=$(mktemp -d "${folder%/*}/build.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  CGO_ENABLED=1 go build -modfile tools/spire.mod -trimpath -buildvcs=false -ldflags "-s -w -X github.com/spiffe/spire/pkg/common/version.gittag=${version#v}" \
    -o "$work/" github.com/spiffe/spire/cmd/spire-server github.com/spiffe/spire/cmd/spire-agent
  "$work/spire-server" --version >/dev/null
  "$work/spire-agent" --version >/dev/null
  chmod 0755 "$work"
  rm -rf "$folder"
  mv -T "$work" "$folder" 2>/dev/null || [[ -x $folder/spire-agent ]] # another run may have been first
  trap - EXIT
fi
echo "$folder"
