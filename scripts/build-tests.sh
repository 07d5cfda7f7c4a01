#!/usr/bin/env bash
# Builds every test program, the peers and protocg, and writes to FILE what there is to run: see programs.py.
# usage: build-tests.sh FILE
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root"

say "peers: Python, node, Go"
tests/peers/python/setup.sh >/dev/null
tests/peers/js/setup.sh "$target/peers-js" >/dev/null
tests/peers/go/setup.sh "$target/peers-go" >/dev/null
say "building"
cargo build --locked --workspace --bins
built=$(mktemp)
trap 'rm -f "$built"' EXIT
cargo test --locked --workspace --no-run --message-format=json >"$built"
scripts/programs.py <"$built" >"$1"
