#!/usr/bin/env bash
# Runs the tests that need a real PostgreSQL: the one that is installed, or Debian's package, which is installed where this
# is root. The servers of the tests run as another user than root, on ports of their own; no service of the system is started.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "tcp-test: $*" >&2; }
fail() {
  say "$*"
  exit 1
}

# The newest server's binaries; Debian keeps them out of PATH.
binaries() {
  local dir
  for dir in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV) "$(dirname "$(type -P postgres || echo /none/postgres)")"; do
    if [[ -x $dir/postgres && -x $dir/initdb && -x $dir/psql ]]; then
      echo "$dir"
      return
    fi
  done
}

install_packages() {
  [[ $(id -u) == 0 ]] && type -P apt-get >/dev/null || fail "missing: PostgreSQL's server and client"
  say "installing postgresql"
  # Neither a service nor a cluster of the system's own.
  local policy=/usr/sbin/policy-rc.d made= clusters=/etc/postgresql-common/createcluster.conf
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    made=1
  fi
  if [[ ! -e $clusters ]]; then
    install -d -m 0755 "${clusters%/*}"
    echo 'create_main_cluster = false' >"$clusters"
  fi
  local code=0 log
  log=$(mktemp)
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    -o Dpkg::Options::=--force-confold postgresql; } >"$log" 2>&1 || code=$?
  [[ -z $made ]] || rm -f "$policy"
  ((code == 0)) || {
    tail -n 20 "$log" >&2
    fail "PostgreSQL could not be installed"
  }
  rm -f "$log"
}

found=$(binaries)
if [[ -z $found ]]; then
  install_packages
  found=$(binaries)
fi
[[ -n $found ]] || fail "the installed PostgreSQL has no postgres, initdb and psql in one place"
say "$("$found/postgres" --version)"
RINGFENCE_POSTGRES=$found go test -count=1 -timeout 10m -v -run '^TestPostgres' ./e2e
