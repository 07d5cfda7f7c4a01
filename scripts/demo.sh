#!/usr/bin/env bash
# The demo: builds what it needs, quietly, and hands over to demo.py.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root"

log=$(mktemp)
trap 'rm -f "$log"' EXIT
say "building (a few minutes the first time)"
cargo build --locked --release --workspace --bins --quiet >"$log" 2>&1 || {
	cat "$log" >&2
	fail "the build failed"
}
as_root "$root/scripts/mounts.sh"
rm -f "$log"
trap - EXIT
as_root python3 "$root/scripts/demo.py" "$target/release"
