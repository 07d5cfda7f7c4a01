#!/usr/bin/env bash
# Fuzzes the engine with libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer, from the corpus that is kept, and says what came of it.
#
# usage: fuzz.sh SECONDS [TARGET...]: SECONDS for all targets together, on every CPU at once
#        fuzz.sh run TARGET FILE...: what a target makes of these inputs
#        fuzz.sh keep: minimises what was found and makes it the corpus
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root"

all=(raw http2 hpack protobuf response mend)
work=$target/fuzz
# No leaks are looked for at the end of a run: libFuzzer looks after each input already. Small: freed memory is used again, caches stay warm.
export ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=1:malloc_context_size=0

say "building the fuzzer"
fuzzer=$(fuzz/build.sh)
if [[ $1 = run ]]; then
	PROTOCG_FUZZ=$2 "$fuzzer" "${@:3}"
	exit
fi

if [[ $1 = keep ]]; then
	for name in "${all[@]}"; do
		rm -rf "$work/least" && mkdir -p "$work/least" "$work/corpus/$name"
		fuzz/corpus.py unpack "fuzz/corpus/$name.bin" "$work/corpus/$name"
		PROTOCG_FUZZ=$name "$fuzzer" -merge=1 -max_len=1000 "$work/least" "$work/corpus/$name" >"$work/$name.log" 2>&1
		fuzz/corpus.py pack "fuzz/corpus/$name.bin" "$work/least"
	done
	exit
fi

seconds=$1
shift
targets=("$@")
((${#targets[@]})) || targets=("${all[@]}")
cpus=$(nproc)
each=$((seconds * cpus / ${#targets[@]}))
((each > 0)) || each=1

# One target on one CPU. The number of executions is the sum of all that were run.
one() {
	local name=$1 log=$work/$1.log
	mkdir -p "$work/corpus/$name" "$work/found"
	fuzz/corpus.py unpack "fuzz/corpus/$name.bin" "$work/corpus/$name"
	PROTOCG_FUZZ=$name "$fuzzer" -max_total_time="$each" -max_len=1000 -timeout=30 -print_final_stats=1 \
		${PROTOCG_FUZZ_SEED:+"-seed=$PROTOCG_FUZZ_SEED"} -artifact_prefix="$work/found/$name-" "$work/corpus/$name" >"$log" 2>&1 || echo "$name" >>"$work/broken"
}

stat() {
	grep -a "^stat::$2:" "$work/$1.log" | awk '{ print $2 }' || true
}

say "fuzzing ${targets[*]}: $each s each, $cpus at once"
rm -f "$work/broken"
running=0
for name in "${targets[@]}"; do
	if ((running == cpus)); then
		wait -n
		running=$((running - 1))
	fi
	one "$name" &
	running=$((running + 1))
done
wait
total=0
for name in "${targets[@]}"; do
	runs=$(stat "$name" number_of_executed_units)
	total=$((total + ${runs:-0}))
	broken=0
	if grep -qsx "$name" "$work/broken"; then
		broken=1
	fi
	printf 'fuzz: %-9s %10d executions %8d a second, corpus %5d, %d crashes or disagreements\n' \
		"$name" "${runs:-0}" "$(stat "$name" average_exec_per_sec)" "$(find "$work/corpus/$name" -type f | wc -l)" "$broken"
	((broken == 0)) || grep -a -m 1 -A 12 -E 'panicked|ERROR' "$work/$name.log" | cut -c -2000
done
printf 'fuzz: %d executions\n' "$total"
[[ ! -e $work/broken ]] || fail "inputs that show it are in $work/found: scripts/fuzz.sh run TARGET FILE"
