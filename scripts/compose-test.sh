#!/usr/bin/env bash
# Brings the compose stack up, twice, down, and up again, and lets its checker judge each time. Needs a Docker engine
# (scripts/docker.sh run), and the images of `make images`. COMPOSE is the command, docker-compose by default.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

read -ra compose <<<"${COMPOSE:-docker-compose}"
export COMPOSE_PROJECT_NAME=ringfence-test
export PROMETHEUS_PORT=${PROMETHEUS_PORT:-19090}
docker=$(type -P /usr/bin/docker || type -P docker)
log=$(mktemp)

say() { echo "compose: $* ($SECONDS s)"; }
fail() {
  echo "compose: FAILED: $*" >&2
  "${compose[@]}" ps -a >&2 || true
  "${compose[@]}" logs --no-color --tail 40 >&2 || true
  exit 1
}
cleanup() {
  "${compose[@]}" down -v --remove-orphans --timeout 5 >/dev/null 2>&1 || true
  rm -f "$log"
}
trap cleanup EXIT

up() {
  "${compose[@]}" up -d >"$log" 2>&1 || {
    cat "$log" >&2
    fail "up"
  }
  say "$1: up"
  local id code
  id=$("${compose[@]}" ps -a -q checker 2>/dev/null || true)
  # Compose 1.29 has no -a here, and lists what has ended anyway.
  [[ -n $id ]] || id=$("${compose[@]}" ps -q checker)
  code=$(timeout 120 "$docker" wait "$id") || fail "$1: the checker does not end"
  "$docker" logs --since "$("$docker" inspect -f '{{.State.StartedAt}}' "$id")" "$id" >"$log" 2>&1
  [[ $code == 0 ]] || {
    cat "$log"
    fail "$1: the checker exits with $code"
  }
}

# Every agent and the control plane are scraped.
scraped() {
  local n i
  for ((i = 0; i < 40; i++)); do
    n=$(curl -fsS "http://127.0.0.1:$PROMETHEUS_PORT/api/v1/targets?state=active" 2>/dev/null | grep -o '"health":"up"' | wc -l) || n=0
    ((n == 6)) && return
    sleep 0.5
  done
  fail "Prometheus scrapes $n of 6"
}

# Prometheus understands every query of the dashboard, and knows what they ask for, except what counts faults alone.
dashboard() {
  python3 - "http://127.0.0.1:$PROMETHEUS_PORT/api/v1" <<'END' || fail "the dashboard"
import json, re, sys, urllib.parse, urllib.request

def get(path):
    with urllib.request.urlopen(sys.argv[1] + path, timeout=10) as answer:
        return json.load(answer)["data"]

known = set(get("/label/__name__/values"))
with open("examples/compose/grafana-dashboard.json") as f:
    queries = [t["expr"] for p in json.load(f)["panels"] for t in p["targets"]]
for query in queries:
    get("/query?" + urllib.parse.urlencode({"query": query}))
    for name in re.findall(r"ringfence_\w+", query):
        if name not in known and not name.endswith("_nacks_total"):
            sys.exit(f"{name} is not there")
END
}

# What an operator would not want to find in a container.
guarded() {
  local id bad
  for id in $("${compose[@]}" ps -q); do
    bad=$("$docker" inspect -f '{{if and .HostConfig.ReadonlyRootfs (eq (print .HostConfig.CapDrop) "[ALL]") (not .HostConfig.Privileged) (ne .Config.User "") (gt .HostConfig.Memory 0)}}{{else}}{{.Name}}{{end}}' "$id")
    [[ -z $bad ]] || fail "$bad is not as guarded as the others"
  done
}

# An application gets its own SVID from its agent, and nobody else's.
identities() {
  local service want got
  for service in acme-web globex-orders; do
    want="spiffe://${service%-*}.demo.test/ns/${service%-*}/sa/${service#*-}"
    got=$("${compose[@]}" exec -T "$service" /checker svid /run/spiffe/workload.sock </dev/null) || fail "$service gets no SVID"
    [[ $got == "$want" ]] || fail "$service is told that it is $got"
  done
}

"${compose[@]}" down -v --remove-orphans >/dev/null 2>&1 || true
"${compose[@]}" version --short
up "from nothing"
cat "$log"
scraped
dashboard
guarded
identities
up "twice"
"${compose[@]}" logs --no-color checker >"$log" 2>/dev/null
grep -q 'ended as expected' "$log" || fail "logs checker"
"${compose[@]}" run --rm checker >"$log" 2>&1 </dev/null || {
  cat "$log"
  fail "run --rm checker"
}
"${compose[@]}" stop acme-orders-envoy >/dev/null 2>&1
if "${compose[@]}" run --rm --no-deps checker >"$log" 2>&1 </dev/null; then
  cat "$log"
  fail "the checker is content without one of the Envoys"
fi
"${compose[@]}" down >/dev/null 2>&1 || fail "down"
say "down"
up "again, over the volumes that down leaves"
"${compose[@]}" down -v >/dev/null 2>&1 || fail "down -v"
for what in "ps -a -q" "network ls -q" "volume ls -q"; do
  # shellcheck disable=SC2086 # the words of a command
  left=$("$docker" $what --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME")
  [[ -z $left ]] || fail "left after down -v: $what: $left"
done
say "passed"
