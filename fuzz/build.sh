#!/usr/bin/env bash
# Builds the fuzzer and prints where it is: the engine with sanitizers and coverage, the reference as a library, libFuzzer's main.
set -euo pipefail
. "$(dirname "$0")/../scripts/lib.sh"
cd "$root"

out=$target/fuzz
mkdir -p "$out"
# CI has the crates of the reference built for its tests; they are slower, and optimising them takes longer than it gains in a minute.
profile=${PROTOCG_FUZZ_PROFILE:-release}
units=()
flags=(-g -O2 -fno-omit-frame-pointer -Wall -Wextra -Wno-unused-parameter -fno-sanitize-recover=all -Ibpf -Ifuzz/engine)
for unit in bpf/host/engine fuzz/engine/main fuzz/engine/mend; do
	[[ -e $unit.c ]] || continue
	# Comparisons are not traced: that costs a third of the speed, and the inputs are decisions, not magic numbers. Beside each other: it takes minutes.
	clang "${flags[@]}" -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-coverage=trace-cmp -c "$unit.c" -o "$out/${unit##*/}.o" &
	units+=($!)
done
cargo rustc --locked --quiet --profile "$profile" --package protocg-fuzz --lib --crate-type staticlib
[[ $profile != dev ]] || profile=debug
for unit in "${units[@]}"; do
	wait "$unit"
done
# The objects come first, so that the library's own engine, which has no sanitizers, is not taken.
clang -fsanitize=fuzzer,address,undefined "$out"/*.o "$target/$profile/libprotocg_fuzz.a" -lelf -lz -lm -ldl -lpthread -o "$out/fuzzer"
echo "$out/fuzzer"
