#!/usr/bin/env bash
# The engine of this tree beside that of an older revision, in turn, over fixed traffic: fails if it is slower by more
# than a tenth. usage: bench-compare.sh [REVISION], default the commit before this one
#
# What is timed is the kernel's, so the builds are those of the tests, which CI has already.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root"

base=${1:-HEAD^}
if ! revision=$(git rev-parse --verify --quiet "$base^{commit}"); then
	echo "SKIPPED bench-compare: $base is not in this clone"
	exit 0
fi
if ! git cat-file -e "$revision:tests/bench/src/compare.rs" 2>/dev/null; then
	echo "SKIPPED bench-compare: $revision has no benchmark"
	exit 0
fi
# A commit that has to be slower says by how much and why: a trailer such as `Engine-time: 1.3, every field is looked at`.
most=$(git log -1 --format='%(trailers:key=Engine-time,valueonly)' | sed -n '1s/[^0-9.].*//p')
tree=$target/bench-base/tree # always the same: what did not change is not built again
clean() {
	rm -rf "$tree"
	git worktree prune
}
trap clean EXIT
clean
git worktree add --quiet --detach "$tree" "$revision"
# Cargo tells packages of the two trees apart by their versions only: with one for both it takes what it has made of either.
sed -i 's/^version = .*/version = "0.0.0-base"/' "$tree/Cargo.toml" "$tree"/tests/*/Cargo.toml

export CARGO_TARGET_DIR=$target # the crates that both need are built once
say "building ${revision:0:12} and this tree"
(cd "$tree" && cargo build --quiet --package protocg-bench)
cp "$target/debug/pg-bench" "$target/bench-base/pg-bench"
cargo build --locked --quiet --package protocg-bench
if cmp -s "$target/debug/pg-bench" "$target/bench-base/pg-bench" && ! git diff --quiet "$revision" -- bpf src; then
	echo "bench-compare: the two builds are the same, though their sources differ" >&2
	exit 1
fi
as_root "$target/debug/pg-bench" compare --base "$target/bench-base/pg-bench" ${most:+--most "$most"}
