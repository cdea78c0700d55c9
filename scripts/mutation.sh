#!/usr/bin/env bash
# The mutation score of the code that keeps tenants apart: every small change of it must be noticed by a unit test, or be
# explained in scripts/mutation.txt. Half an hour or more of one core; docs/mutation.md says what is changed and what came of it.
#   scripts/mutation.sh [FOLDER]...
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Of the agent, what re-checks and keeps what the control plane sends, with the tests that start no process.
readonly relay_tests='^(TestTables|TestEnvoysRefusal|TestUnknownWorkload|TestHostile|TestOwnRefusal|TestVersionsMust|TestRestore|TestRelay|TestState|TestBadState|FuzzState|TestStream|TestEnded|TestRest|TestOnlyTheT|TestRemoval|TestSilent|TestRenewedSVID|TestResource|TestRefused|TestMiscalled|TestStands|TestTableStands|TestListening|TestMissing|TestJudge|TestCurrent|TestSettled|TestHint)'
declare -Ar files=([prove]=prove:relayed.go [agent]=agent:relay.go,settle.go,cache.go)
declare -Ar tests=([agent]=$relay_tests)

folders=("$@")
((${#folders[@]} > 0)) || folders=(prove agent identity authz/extauthz authz)

mkdir -p bin
go build -buildvcs=false -o bin/mutation ./internal/mutation
failed=0
for folder in "${folders[@]}"; do
  nice -n 19 bin/mutation -explained scripts/mutation.txt -run "${tests[$folder]:-}" "${files[$folder]:-$folder}" || failed=1
done
exit "$failed"
