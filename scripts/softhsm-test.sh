#!/usr/bin/env bash
# Tests root keys in a PKCS #11 token, on SoftHSM: Debian's package, installed where it is missing (needs root then). The
# token lies in a temporary directory, and nothing of it stays.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_module() { find /usr/lib /usr/local/lib -name libsofthsm2.so 2>/dev/null | head -n 1; }

if ! command -v softhsm2-util >/dev/null || [[ -z $(find_module) ]]; then
  echo "softhsm: installing softhsm2" >&2
  if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends softhsm2; } >/dev/null; then
    echo "softhsm: softhsm2 could not be installed; install it, and run this again" >&2
    exit 1
  fi
fi
if ! command -v gcc >/dev/null && ! command -v clang >/dev/null; then
  echo "softhsm: PKCS #11 needs cgo, and there is no C compiler" >&2
  exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/tokens"
printf 'directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n' "$work/tokens" >"$work/softhsm2.conf"
export SOFTHSM2_CONF="$work/softhsm2.conf"
install -m 0600 /dev/null "$work/pin"
printf 1234 >"$work/pin"
softhsm2-util --init-token --free --label ringfence --pin 1234 --so-pin 5678 >/dev/null

export RINGFENCE_TEST_PKCS11="pkcs11:module-path=$(find_module);token=ringfence?pin-source=$work/pin"
CGO_ENABLED=1 go test -tags softhsm -count=1 -timeout 10m -run SoftHSM -v ./identity/issuer ./cmd/ringfence
