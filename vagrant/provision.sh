#!/bin/bash
# Makes a Debian or Ubuntu machine ready for the tests: kernel, boot line, modules, packages. Root; may be run again.
# Environment: KERNEL, a package such as linux-image-6.12-cloud-amd64; without it the kernel stays as it is.
# Leaves /run/restart-for-tests if the machine has to be started again.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
KERNEL=${KERNEL:-}

say() {
	printf '==> %s\n' "$*"
}

install() {
	local missing=()
	for package in "$@"; do
		[[ $(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null || true) = ii* ]] || missing+=("$package")
	done
	((${#missing[@]})) || return 0
	say "installing ${missing[*]}"
	apt-get update -qq
	apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
}

# The release that a kernel package is, or depends on.
release_of() {
	dpkg-query -W -f '${Depends}' "$1" | grep -o 'linux-image-[0-9][^ ,]*' | head -n 1 | sed 's/^linux-image-//'
}

# Tests bring their own tools; these are for who looks around.
install iproute2 kmod procps

release=$(uname -r)
if [[ -n $KERNEL ]]; then
	install "$KERNEL"
	release=$(release_of "$KERNEL")
	release=${release:-${KERNEL#linux-image-}}
	[[ -e /boot/vmlinuz-$release ]] || {
		echo "error: $KERNEL brought no /boot/vmlinuz-$release" >&2
		exit 1
	}
fi

# LSM programs load without an error and never run unless `bpf` is in this list.
lsm=''
modules=$(cat /sys/kernel/security/lsm)
if [[ ,$modules, != *,bpf,* ]]; then
	# capability is always there, and not to be named
	lsm="lsm=$(sed 's/\(^\|,\)capability\(,\|$\)/\1/; s/,$//' <<<"$modules"),bpf"
fi

restart=0
if [[ -n $lsm ]]; then
	say "boot line: $lsm"
	restart=1
	if [[ -e /etc/default/grub ]]; then
		grep -q "$lsm" /etc/default/grub || sed -i "s/^\(GRUB_CMDLINE_LINUX=\"[^\"]*\)\"/\1 $lsm\"/" /etc/default/grub
		update-grub 2>/dev/null
	else
		grep -q "$lsm" /boot/extlinux/extlinux.conf || sed -i "/^ *APPEND/s/\$/ $lsm/" /boot/extlinux/extlinux.conf
	fi
fi
if [[ $release != "$(uname -r)" ]]; then
	say "kernel: $release instead of $(uname -r)"
	restart=1
	if [[ -e /etc/default/grub ]]; then
		entry=$(sed -n "s/^.*menuentry .*\(gnulinux-$release-advanced-[^']*\)'.*/\1/p" /boot/grub/grub.cfg | head -n 1)
		menu=$(sed -n "s/^submenu .*\(gnulinux-advanced-[^']*\)'.*/\1/p" /boot/grub/grub.cfg | head -n 1)
		sed -i "s/^GRUB_DEFAULT=.*/GRUB_DEFAULT=\"$menu>$entry\"/" /etc/default/grub
		update-grub 2>/dev/null
	else
		sed -i "s/^DEFAULT .*/DEFAULT $release/" /boot/extlinux/extlinux.conf
	fi
fi

# For ways to end sockets, and for tests of TLS.
printf '%s\n' inet_diag tcp_diag tls >/etc/modules-load.d/protocg-tests.conf
modprobe -a inet_diag tcp_diag tls

((restart == 0)) || touch /run/restart-for-tests
say "provisioned: kernel $release"
