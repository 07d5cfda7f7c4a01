#!/usr/bin/env bash
# Builds and runs every test. Ring 0 needs no root and runs as who called; ring 1 attaches programs and runs as root.
# A test program is of ring 1 if its source
# says `need_root!` or uses the peers' harness. The last line is the sum.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root"

limit=900 # seconds for one test program: none may hang
passed=0 failed=0 skipped=0
broken=()

say "Python peers"
python=$(tests/peers/python/setup.sh)
export PROTOCG_VENV=${python%/bin/python3}

say "building"
cargo build --locked --workspace --bins
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cargo test --locked --workspace --no-run --message-format=json >"$work/built.json"

# a line a test program: its ring, its package's folder, its name, its file
python3 - "$work/built.json" >"$work/programs" <<'PY'
import json, pathlib, sys

for line in open(sys.argv[1]):
    m = json.loads(line)
    if m.get("reason") != "compiler-artifact" or not m["profile"]["test"] or not m.get("executable"):
        continue
    source = pathlib.Path(m["target"]["src_path"])
    sources = [source]
    if "test" in m["target"]["kind"] and source.name == "main.rs":
        sources = source.parent.rglob("*.rs")
    texts = [s.read_text() for s in sources]
    ring = int("test" in m["target"]["kind"] and any("need_root!" in t or "harness" in t for t in texts))
    print(ring, pathlib.Path(m["manifest_path"]).parent, m["target"]["name"], m["executable"], sep="\t")
PY
sort -o "$work/programs" "$work/programs"

# Runs a test program, shows what it prints, and adds its counts.
run() {
	local ring=$1 folder=$2 name=$3 program=$4 log=$work/log status=0 line ok bad ignored none
	say "ring $ring: $name"
	local command=(env "CARGO_MANIFEST_DIR=$folder" timeout --foreground "$limit" "$program" --show-output)
	if [[ $ring -eq 1 ]]; then
		(cd "$folder" && as_root "${command[@]}" </dev/null 2>&1) | tee "$log" || status=$?
	else
		(cd "$folder" && "${command[@]}" </dev/null 2>&1) | tee "$log" || status=$?
	fi
	line=$(grep -a '^test result: ' "$log" | tail -n 1 || true)
	if [[ $line =~ ([0-9]+)\ passed\;\ ([0-9]+)\ failed\;\ ([0-9]+)\ ignored ]]; then
		ok=${BASH_REMATCH[1]} bad=${BASH_REMATCH[2]} ignored=${BASH_REMATCH[3]}
	else
		ok=0 bad=1 ignored=0 # it crashed, or was stopped
	fi
	# Tests that found out at run time that they cannot run here say so in this form.
	none=$(grep -ac -i '^skipped[: ]' "$log" || true)
	passed=$((passed + ok - none)) failed=$((failed + bad)) skipped=$((skipped + ignored + none))
	if [[ $bad -gt 0 || $status -ne 0 ]]; then
		broken+=("$name")
		[[ $bad -gt 0 ]] || failed=$((failed + 1))
	fi
}

if grep -q '^1' "$work/programs"; then
	as_root "$root/scripts/mounts.sh"
fi
while IFS=$'\t' read -r -u 3 ring folder name program; do
	run "$ring" "$folder" "$name" "$program"
done 3<"$work/programs"

((${#broken[@]} == 0)) || printf 'failed: %s\n' "${broken[*]}"
printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[[ $failed -eq 0 ]]
