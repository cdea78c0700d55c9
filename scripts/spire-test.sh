#!/usr/bin/env bash
# Tests Ringfence beside a real SPIRE: its server and agent, built by scripts/spire.sh the first time (some ten minutes; a C compiler,
# Debian's gcc, is installed where it is missing, which needs root then) and kept in .cache/spire. Takes the Envoy of $ENVOY.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! compgen -G '.cache/spire/v*/spire-agent' >/dev/null && ! command -v "${CC:-cc}" >/dev/null; then
  echo "spire: installing gcc" >&2
  if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends gcc libc6-dev; } >/dev/null; then
    echo "spire: gcc could not be installed; install a C compiler, and run this again" >&2
    exit 1
  fi
fi
SPIRE=$(scripts/spire.sh)
export SPIRE
go test -tags spire -count=1 -timeout 20m -v -run SPIRE ./internal/realspire ./cmd/ringfence ./e2e
