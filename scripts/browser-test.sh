#!/usr/bin/env bash
# Runs the tests that need a real browser: the one that RINGFENCE_BROWSER names, the Chromium that is installed, or Debian's
# package, which is installed where this is root. Its profile is a temporary directory, and the only hosts that it finds are
# the test's own, on loopback.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "browser-test: $*" >&2; }
fail() {
  say "$*"
  exit 1
}

browser() { type -P chromium || type -P chromium-browser || type -P google-chrome || true; }

install_package() {
  [[ $(id -u) == 0 ]] && type -P apt-get >/dev/null || fail "missing: Chromium; RINGFENCE_BROWSER=/path/to/one names another"
  say "installing chromium"
  local log
  log=$(mktemp)
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    -o Dpkg::Options::=--force-confold chromium; } >"$log" 2>&1 || {
    tail -n 20 "$log" >&2
    fail "Chromium could not be installed"
  }
  rm -f "$log"
}

found=${RINGFENCE_BROWSER:-$(browser)}
if [[ -z $found ]]; then
  install_package
  found=$(browser)
fi
version=$("$found" --version 2>/dev/null) || fail "$found does not say its version"
say "$version"
RINGFENCE_BROWSER=$found go test -tags browser -count=1 -timeout 10m -v -run '^TestBrowser$' ./e2e
