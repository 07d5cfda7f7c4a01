#!/usr/bin/env bash
# Fetches a Debian kernel and prints the folder that it is unpacked in.
#
# usage: kernel.sh SERIES FOLDER
#
# SERIES is the beginning of a version: 6.1, 6.12, 6.18, 7, ... The newest kernel of the series that Debian has now is
# taken, and kept: remove FOLDER to look again. Packages come through an apt directory of its own below FOLDER; this
# machine's sources are read, for the mirror, and never changed. Needs apt and debian-archive-keyring, no root.
set -euo pipefail
. "$(dirname "$0")/../../scripts/lib.sh"

[[ $# -eq 2 ]] || fail "usage: kernel.sh SERIES FOLDER"
series=$1
folder=$(mkdir -p "$2" && realpath "$2")
here=$folder/$series
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

if [[ -e $here/unpacked ]]; then
	echo "$here"
	exit
fi
[[ -e $keyring ]] || fail "Debian's keys are missing; on Debian and Ubuntu: apt-get install debian-archive-keyring"

# Where Debian keeps which series. The first suite that has it wins; names of packages carry versions that vanish with
# the next update, so they are looked up.
case $series in
5.10) suites=(bullseye-security bullseye) ;;
6.1 | 6.12) suites=(bookworm-security bookworm) ;;
*) suites=(trixie-backports trixie) ;;
esac

# The mirror that this machine uses, if it is Debian's.
mirror=$(sed -n 's,^\(deb\|URIs:\) *\(\[[^]]*\] *\)\?\([a-z+]*://[^ ]*/debian\)/\?\( .*\)\?$,\3,p' \
	/etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list 2>/dev/null | head -n 1 || true)
mirror=${PROTOCG_DEBIAN_MIRROR:-${mirror:-http://deb.debian.org/debian}}

# An apt directory that knows one suite.
apt_for() {
	local suite=$1 at=$folder/apt-$1 from=$mirror
	[[ $suite != *-security ]] || from=$mirror-security
	mkdir -p "$at/lists/partial" "$at/cache/archives/partial" "$at/sources.d"
	printf 'deb [arch=amd64 signed-by=%s] %s %s main\n' "$keyring" "$from" "$suite" >"$at/sources.list"
	: >"$at/status"
	cat >"$at/apt.conf" <<-EOF
		Dir::State "$at";
		Dir::State::status "$at/status";
		Dir::Cache "$at/cache";
		Dir::Etc::sourcelist "$at/sources.list";
		Dir::Etc::sourceparts "$at/sources.d";
		Dir::Etc::preferencesparts "$at/sources.d";
		APT::Architecture "amd64";
		APT::Sandbox::User "";
		Acquire::Languages "none";
	EOF
	export APT_CONFIG=$at/apt.conf
	# A suite that is out of support has dates of the past.
	apt-get update -qq -o Acquire::Check-Valid-Until=false
}

# The newest image of the series, as a package's name.
newest() {
	apt-cache pkgnames "linux-image-$series" | grep -E "^linux-image-${series//./\\.}[.-][0-9.+-]*(deb[0-9]+u?[0-9]*-)?cloud-amd64$" |
		grep -v unsigned | sort -V | tail -n 1
}

for suite in "${suites[@]}"; do
	apt_for "$suite"
	image=$(newest || true)
	[[ -z $image ]] || break
done
[[ -n $image ]] || fail "Debian has no kernel of the series $series in ${suites[*]}"

# From 7.0 the kernel and its modules are in packages that the image depends on.
version=${image#linux-image-}
mapfile -t parts < <(apt-cache depends "$image" | sed -n "s/^ *Depends: \(linux-\(binary\|modules\)-${version//./\\.}\)$/\1/p")
say "$series: $image from $suite" >&2
work=$(mktemp -d "$folder/.unpacking.XXXXXX")
trap 'rm -rf "$work"' EXIT
(cd "$work" && apt-get download -qq "$image" ${parts[@]+"${parts[@]}"})
mkdir "$work/tree"
for package in "$work"/*.deb; do
	dpkg-deb -x "$package" "$work/tree"
done

# One place for what lies in different ones: vmlinuz, and modules where modprobe looks for them.
mkdir -p "$work/kernel/lib/modules"
vmlinuz=$(find "$work/tree" -name 'vmlinuz*' -type f -print -quit)
modules=$(find "$work/tree" -path '*/modules/*' -prune -type d -print -quit)
[[ -n $vmlinuz && -n $modules ]] || fail "$image holds no kernel, or no modules"
mv "$vmlinuz" "$work/kernel/vmlinuz"
mv "$modules" "$work/kernel/lib/modules/"
release=$(basename "$modules")
echo "$release" >"$work/kernel/release"
depmod -b "$work/kernel" "$release"
touch "$work/kernel/unpacked"
rm -rf "$here"
mv "$work/kernel" "$here"
echo "$here"
