#!/usr/bin/env bash
# Installs what a fresh Debian or Ubuntu lacks. Says nothing, and needs no root, where nothing is missing.
# usage: setup.sh [vm|bench]: with `vm` also what virtual machines for tests need, with `bench` what is measured beside protocg
set -euo pipefail
. "$(dirname "$0")/lib.sh"

# git brings the libcurl over GnuTLS that tests call.
packages=(clang libclang-dev llvm libelf-dev zlib1g-dev libssl-dev pkg-config make gcc libc6-dev linux-libc-dev iproute2 ethtool
	clang-format python3 python3-venv libclang-rt-dev nghttp2-client runc crun busybox-static git
	golang-go golang-google-grpc-dev golang-google-protobuf-dev)
# Often from elsewhere than Debian, and then npm is part of it.
command -v node >/dev/null || packages+=(nodejs)
command -v npm >/dev/null || packages+=(npm)
[[ ${1:-} != vm ]] || packages+=(qemu-system-x86 cpio xz-utils kmod e2fsprogs binutils debian-archive-keyring)
[[ ${1:-} != bench ]] || packages+=(haproxy)

if command -v dpkg-query >/dev/null; then
	missing=()
	for package in "${packages[@]}"; do
		state=$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null || true)
		[[ $state = ii* ]] || missing+=("$package")
	done
	if ((${#missing[@]})); then
		say "installing ${missing[*]}"
		as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq </dev/null
		as_root env DEBIAN_FRONTEND=noninteractive \
			apt-get install -qq -y --no-install-recommends "${missing[@]}" </dev/null >/dev/null
		# Debian starts it as a service; the benchmark starts its own.
		[[ " ${missing[*]} " != *' haproxy '* ]] || as_root systemctl disable --now --quiet haproxy 2>/dev/null || true
	fi
else
	for tool in clang pkg-config cc ip ethtool clang-format python3 go node npm; do
		command -v "$tool" >/dev/null || fail "\`$tool\` is missing; on Debian these packages are needed: ${packages[*]}"
	done
fi

wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
how="install Rust with rustup (https://rustup.rs)"

# Debian from 13 and Ubuntu from 24.04 have rustup as a package; their own cargo is too old.
if ! command -v cargo >/dev/null && command -v apt-cache >/dev/null && apt-cache show rustup >/dev/null 2>&1; then
	say "installing rustup and Rust"
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y rustup </dev/null >/dev/null
	rustup toolchain install stable --profile minimal --component rustfmt,clippy
fi
command -v cargo >/dev/null || fail "cargo is missing; $how"
have=$(cargo --version | cut -d ' ' -f 2)
[[ $(printf '%s\n%s\n' "$wanted" "$have" | sort -V | head -n 1) = "$wanted" ]] ||
	fail "cargo is $have and has to be $wanted at least; $how"
for component in fmt clippy; do
	cargo "$component" --version >/dev/null 2>&1 || rustup component add rustfmt clippy
done
