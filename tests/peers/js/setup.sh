#!/bin/sh
# Installs the packages that server.js and client.js need, once, and prints where.
# usage: setup.sh [DIR], default peers-js below the target directory
set -eu

here=$(cd "$(dirname "$0")" && pwd)
dir=${1:-${CARGO_TARGET_DIR:-$here/../../../target}/peers-js}

fail() {
    echo "setup.sh: $1" >&2
    exit 1
}

mkdir -p "$dir"
exec 9>"$dir/lock"
flock 9

if ! cmp -s "$here/package-lock.json" "$dir/installed.json"; then
    for tool in node npm; do
        command -v $tool >/dev/null || fail "$tool is missing: apt-get install nodejs npm"
    done
    cp "$here/package.json" "$here/package-lock.json" "$dir"
    (cd "$dir" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2) ||
        fail "npm cannot install $here/package-lock.json: is the package registry in reach?"
    cp "$here/package-lock.json" "$dir/installed.json"
fi
echo "$dir/node_modules"
