#!/usr/bin/env bash
# Runs test programs, shows what they print, and ends with what was skipped and why, what failed and how, and the sum.
#
# usage: run-programs.sh LIST [RESULTS]
#
# LIST is what programs.py writes; a fifth column, if there is one, is arguments for the program. Ring 0 runs as who
# called, ring 1 as root. RESULTS gets a line a program when it has ended: ring, name, passed, failed, skipped, seconds;
# and one for each skip: `skip`, name, why.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

list=$1 results=${2:-/dev/null}
limit=$((900 * ${PROTOCG_TEST_SLOW:-1})) # seconds for one test program: none may hang
passed=0 failed=0 skipped=0
broken=()
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Tests hold hundreds of connections, both ends of each; 1,024 files is what a login session gets.
ulimit -n "$(ulimit -Hn)"

# What the tests that failed said, without their stacks; of a program that came to no result, its last lines.
complaints() {
	if grep -q -a '^test result: ' "$1"; then
		awk '/^failures:$/ { on = 1 } /^test result: / { on = 0 } on' "$1" | grep -a -v -E '^ +([0-9]+: |at )|^(stack backtrace|note):' | cut -c -2000 | awk 'NR <= 150'
	else
		tail -n 30 "$1"
	fi
}

run() {
	local ring=$1 folder=$2 name=$3 program=$4 log=$work/log start=$SECONDS status=0 line ok bad ignored why
	local arguments=()
	read -r -a arguments <<<"${5:-}"
	say "ring $ring: $name"
	local command=(env "CARGO_MANIFEST_DIR=$folder" timeout --foreground "$limit" "$program" --show-output)
	command+=(${arguments[@]+"${arguments[@]}"})
	[[ $ring -eq 0 ]] || command=(as_root "${command[@]}")
	(cd "$folder" && "${command[@]}" </dev/null 2>&1) | tee "$log" || status=$?
	line=$(grep -a '^test result: ' "$log" | tail -n 1 || true)
	if [[ $line =~ ([0-9]+)\ passed\;\ ([0-9]+)\ failed\;\ ([0-9]+)\ ignored ]]; then
		ok=${BASH_REMATCH[1]} bad=${BASH_REMATCH[2]} ignored=${BASH_REMATCH[3]}
	else
		ok=0 bad=1 ignored=0 # it crashed, or was stopped
	fi
	[[ $bad -gt 0 || $status -eq 0 ]] || bad=1
	# Tests that found out at run time that they cannot run here say so in this form.
	grep -a -i '^skipped[: ]' "$log" >"$work/skips" || true
	while read -r _ why; do
		printf 'skip\t%s\t%s\n' "$name" "$why" | tee -a "$work/skipped" >>"$results"
		ok=$((ok - 1)) ignored=$((ignored + 1))
	done <"$work/skips"
	passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + ignored))
	if [[ $bad -gt 0 ]]; then
		broken+=("$name")
		{ say "failed: $name" && complaints "$log"; } >>"$work/complaints"
	fi
	printf '%s\t%s\t%d\t%d\t%d\t%d\n' "$ring" "$name" "$ok" "$bad" "$ignored" $((SECONDS - start)) >>"$results"
}

if grep -q '^1' "$list"; then
	as_root "$root/scripts/mounts.sh"
fi
while IFS=$'\t' read -r -u 3 ring folder name program arguments; do
	run "$ring" "$folder" "$name" "$program" "$arguments"
done 3<"$list"

if [[ -s $work/skipped ]]; then
	say "skipped"
	cut -f 2- "$work/skipped"
fi
if ((${#broken[@]})); then
	cat "$work/complaints"
	printf 'failed: %s\n' "${broken[*]}"
fi
printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[[ $failed -eq 0 ]]
