#!/usr/bin/env bash
# Fetches a Debian kernel and prints the folder that it is unpacked in.
#
# usage: kernel.sh SERIES FOLDER
#
# SERIES is the beginning of a version: 6.1, 6.12, 6.18, 7, ... The newest kernel of the series that Debian has now is
# taken, and kept: remove FOLDER to look again. Needs apt and debian-archive-keyring, no root.
set -euo pipefail
. "$(dirname "$0")/../../scripts/lib.sh"
. "$(dirname "$0")/debian.sh"

[[ $# -eq 2 ]] || fail "usage: kernel.sh SERIES FOLDER"
series=$1
folder=$(mkdir -p "$2" && realpath "$2")
here=$folder/$series

if [[ -e $here/unpacked ]]; then
	echo "$here"
	exit
fi

# Where Debian keeps which series. The first suite that has it wins; names of packages carry versions that vanish with
# the next update, so they are looked up.
case $series in
5.10) suites=(bullseye-security bullseye) ;;
6.1 | 6.12) suites=(bookworm-security bookworm) ;;
*) suites=(trixie-backports trixie) ;;
esac

# The newest image of the series, as a package's name.
newest() {
	apt-cache pkgnames "linux-image-$series" | grep -E "^linux-image-${series//./\\.}[.-][0-9.+-]*(deb[0-9]+u?[0-9]*-)?cloud-amd64$" |
		grep -v unsigned | sort -V | tail -n 1
}

for suite in "${suites[@]}"; do
	apt_for "$suite" "$folder"
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
unpack "$work" "$image" ${parts[@]+"${parts[@]}"}

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
