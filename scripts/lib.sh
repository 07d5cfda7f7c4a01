# Shared by the scripts beside it; sourced, not run.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
[[ $target = /* ]] || target=$root/$target
export PROTOCG_VENV=${PROTOCG_VENV:-$target/peers-venv} # the Python peers' environment

say() {
	printf '==> %s\n' "$*"
}

fail() {
	printf 'error: %s\n' "$*" >&2
	exit 1
}

# Runs a command as root, with what the tests and the demo take from the environment.
as_root() {
	if [[ $EUID -eq 0 ]]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo --preserve-env=CARGO_TARGET_DIR,CARGO_MANIFEST_DIR,PROTOCG_VENV,PROTOCG_ENVOY,PROTOCG_TEST_SLOW,PROTOCG_LOG,RUST_BACKTRACE,CI -- "$@"
	else
		fail "this needs root: install sudo, or run it as root"
	fi
}

# rustup puts cargo there, and a shell that is older than it does not know.
if ! command -v cargo >/dev/null && [[ -x $HOME/.cargo/bin/cargo ]]; then
	PATH=$HOME/.cargo/bin:$PATH
fi
