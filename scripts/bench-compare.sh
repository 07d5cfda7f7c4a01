#!/usr/bin/env bash
# The engine of this tree beside that of an older revision, in turn, over fixed traffic: fails if it is slower by more
# than a tenth. usage: bench-compare.sh [REVISION], default the commit before this one
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
tree=$target/bench-base/tree # always the same: what did not change is not built again
clean() {
	rm -rf "$tree"
	git worktree prune
}
trap clean EXIT
clean
git worktree add --quiet --detach "$tree" "$revision"

say "building this tree and ${revision:0:12}"
cargo build --locked --release --quiet --package protocg-bench
(cd "$tree" && CARGO_TARGET_DIR=$target/bench-base cargo build --locked --release --quiet --package protocg-bench)
as_root "$target/release/pg-bench" compare --base "$target/bench-base/release/pg-bench"
