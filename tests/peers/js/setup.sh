#!/bin/sh
# Installs the packages that server.js and client.js need, once, and prints where; and a node of today (newer/), which some tests run them with.
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

install() {
    from=$1 to=$2
    ! cmp -s "$from/package-lock.json" "$to/installed.json" || return 0
    for tool in node npm; do
        command -v $tool >/dev/null || fail "$tool is missing: apt-get install nodejs npm"
    done
    mkdir -p "$to"
    cp "$from/package.json" "$from/package-lock.json" "$to"
    (cd "$to" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error >&2) ||
        fail "npm cannot install $from/package-lock.json: is the package registry in reach?"
    cp "$from/package-lock.json" "$to/installed.json"
}

install "$here" "$dir"
install "$here/newer" "$dir/newer"
echo "$dir/node_modules"
