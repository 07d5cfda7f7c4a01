#!/usr/bin/env bash
# Prints the QEMU to run a machine with, and how: `kvm` where it can be used, else how processors are to be emulated, with a
# thread for each (`multi`) or one for all (`single`).
#
# usage: qemu.sh FOLDER
#
# Before QEMU 8.1 an emulated processor may run code that another has patched meanwhile: kernels that patch themselves a
# lot, as they do for BPF LSM, die of a breakpoint that is not there any more (docs/vm.md). With those, one thread has to
# emulate all of a guest's processors. Debian 12 has 7.2, and a newer one in its backports: that is fetched, unpacked
# below FOLDER and kept. It is not installed: it needs no library that the old one does not need.
set -euo pipefail
. "$(dirname "$0")/../../scripts/lib.sh"
. "$(dirname "$0")/debian.sh"

[[ $# -eq 1 ]] || fail "usage: qemu.sh FOLDER"
least=8.1
own=$(mkdir -p "$1" && realpath "$1")/qemu

# Does this QEMU start, and is it new enough?
is_new() {
	local version
	version=$("$1" --version 2>/dev/null | sed -n 's/^QEMU emulator version \([0-9.]*\).*/\1/p')
	[[ -n $version && $(printf '%s\n%s\n' $least "$version" | sort -V | head -n 1) = "$least" ]]
}

fetch() {
	local suite work
	suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")-backports
	[[ $suite = bookworm-backports ]] && command -v apt-get >/dev/null || return
	say "QEMU from $suite" >&2
	work=$(mktemp -d "$1/.unpacking.XXXXXX")
	trap 'rm -rf "$work"' RETURN
	(apt_for "$suite" "$1" && unpack "$work" qemu-system-x86 qemu-system-common qemu-system-data seabios) || return
	# Its data, and its modules, are looked for where they would be installed.
	cat >"$work/tree/qemu" <<-'SH'
		#!/bin/sh
		here=$(dirname "$0")
		QEMU_MODULE_DIR=$here/usr/lib/x86_64-linux-gnu/qemu exec "$here/usr/bin/qemu-system-x86_64" -L "$here/usr/share/qemu" -L "$here/usr/share/seabios" "$@"
	SH
	chmod +x "$work/tree/qemu"
	rm -rf "$own"
	mv "$work/tree" "$own"
}

# It looks for modules that it does not have where the installed, older one has them, and dies of those when libvirt asks
# for all that there is: an empty file is one that it cannot load.
hide_modules() {
	local modules=/usr/lib/x86_64-linux-gnu/qemu module
	for module in "$modules"/*.so; do
		[[ -e $own/$modules/${module##*/} ]] || : >"$own/$modules/${module##*/}"
	done
}

qemu=$(command -v qemu-system-x86_64) || fail "QEMU is missing; on Debian: apt-get install qemu-system-x86"
# /dev/kvm may be there and of no use: the processor has to offer its extensions too.
if [[ -w /dev/kvm ]] && grep -qE '^flags.* (vmx|svm)\b' /proc/cpuinfo; then
	echo "$qemu kvm"
	exit
fi
if ! is_new "$qemu"; then
	[[ -x $own/qemu ]] || fetch "$(dirname "$own")" || true
	if [[ -x $own/qemu ]]; then
		qemu=$own/qemu
		hide_modules
	fi
fi
if is_new "$qemu"; then
	echo "$qemu multi"
else
	say "QEMU before $least: one thread for all of a guest's processors" >&2
	echo "$qemu single"
fi
