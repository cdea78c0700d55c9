#!/usr/bin/env bash
# Fails where a package has a smaller part of its statements covered than it must.
#   scripts/cover.sh PROFILE PERCENT PACKAGE...
# PROFILE is what `go test -coverprofile` wrote. A package counts with its own files, not those of packages below it.
set -euo pipefail

if (($# < 3)); then
  echo "usage: scripts/cover.sh PROFILE PERCENT PACKAGE..." >&2
  exit 2
fi
profile=$1 least=$2
shift 2

if [[ ! -r $profile ]]; then
  echo "cover: there is no $profile" >&2
  exit 1
fi

# A line is "package/file.go:from,to STATEMENTS COUNT". One block can stand there more than once: covered once is covered.
awk -v least="$least" -v packages="$*" '
  /^mode:/ { next }
  {
    file = $1; sub(/:[^:]*$/, "", file)
    pkg = file; sub(/\/[^\/]*$/, "", pkg)
    statements[$1] = $2; of[$1] = pkg
    if ($3 > 0) covered[$1] = 1
  }
  END {
    for (block in statements) {
      all[of[block]] += statements[block]
      if (block in covered) hit[of[block]] += statements[block]
    }
    n = split(packages, list, " ")
    for (i = 1; i <= n; i++) {
      pkg = list[i]
      if (!all[pkg]) { printf "%-55s nothing of it is in the profile\n", pkg; bad = 1; continue }
      percent = 100 * hit[pkg] / all[pkg]
      verdict = percent >= least ? "" : "  less than " least " %"
      printf "%-55s %5.1f %% of %d statements%s\n", pkg, percent, all[pkg], verdict
      if (percent < least) bad = 1
    }
    exit bad
  }
' "$profile"
