#!/usr/bin/env bash
# Formatters, lints, and generated files against their generators.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root"

say "rustfmt"
cargo fmt --all --check
say "clang-format"
find bpf fuzz/engine \( -name '*.c' -o -name '*.h' \) ! -name huffman_table.h -print0 | xargs -0 clang-format --dry-run -Werror
say "generated files"
python3 bpf/proto/huffman.py | diff -u bpf/proto/huffman_table.h - ||
	fail "bpf/proto/huffman_table.h is not what bpf/proto/huffman.py writes"
say "tests that the threat model names"
scripts/threat_model.py
say "clippy"
cargo clippy --locked --workspace --all-targets --quiet -- -D warnings
say "Go"
unformatted=$(gofmt -l tests/peers/go)
[[ -z $unformatted ]] || fail "gofmt would change $unformatted"
say "shell, Python and JavaScript"
if git grep -n -E '^(<<<<<<<|>>>>>>>) '; then
	fail "a merge was left half done"
fi
for script in $(git ls-files '*.sh') .ci/run; do
	bash -n "$script"
done
for script in $(git ls-files '*.py'); do
	python3 -c 'import ast, sys; ast.parse(open(sys.argv[1]).read(), sys.argv[1])' "$script"
done
for script in tests/peers/js/*.js; do
	node --check "$script"
done
echo "lint: nothing to complain about"
