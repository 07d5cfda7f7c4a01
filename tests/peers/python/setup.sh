#!/bin/sh
# Makes the virtual environment that server.py and client.py run in, once, and prints where its python3 is.
# usage: setup.sh [DIR [REQUIREMENTS]], default $PROTOCG_VENV, else target/peers-venv of this repository
set -eu

here=$(cd "$(dirname "$0")" && pwd)
list=${2:-$here/requirements.txt}
dir=${1:-${PROTOCG_VENV:-${CARGO_TARGET_DIR:-$here/../../../target}/peers-venv}}

fail() {
    echo "setup.sh: $1" >&2
    exit 1
}

made() {
    cmp -s "$list" "$dir/installed.txt"
}

# Test programs run at once: one of them makes it, the others wait.
made || {
    mkdir -p "$(dirname "$dir")"
    exec 9>"$dir.lock"
    flock 9
}
if ! made; then
    command -v python3 >/dev/null || fail "python3 is missing: apt-get install python3 python3-venv"
    rm -rf "$dir"
    python3 -m venv "$dir" >&2 || fail "python3 -m venv failed: apt-get install python3-venv"
    "$dir/bin/python3" -m pip install --quiet --disable-pip-version-check -r "$list" >&2 ||
        fail "pip cannot install $list: is the package index in reach?"
    cp "$list" "$dir/installed.txt"
fi
echo "$dir/bin/python3"
