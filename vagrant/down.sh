#!/usr/bin/env bash
# Removes this checkout's Vagrant machine, whatever state it is in: also one that Vagrant has no note of any more, because
# `vagrant up` was killed or .vagrant was removed. Ends with an error only if something is left.
set -euo pipefail
. "$(dirname "$0")/../scripts/lib.sh"
cd "$root"

known=''
! compgen -G '.vagrant/machines/*/*/id' >/dev/null || known=1
if [[ -n $known ]]; then
	vagrant destroy --force || say "vagrant could not remove the machine"
fi

# vagrant-libvirt names a domain after the folder that the Vagrantfile is in.
if command -v virsh >/dev/null && virsh -q list --all --name >/dev/null 2>&1; then
	machine=$(basename "$root")_default
	if virsh -q list --all --name | grep -qx "$machine"; then
		say "removing $machine, which is left in libvirt"
		virsh -q destroy "$machine" 2>/dev/null || true
		virsh -q undefine "$machine" --nvram --remove-all-storage || virsh -q undefine "$machine"
	fi
	# A disk without a machine, which `vagrant up` leaves if libvirt refuses the machine, and then stumbles over.
	if virsh -q vol-info --pool default "$machine.img" >/dev/null 2>&1; then
		say "removing the disk $machine.img, which is left in libvirt"
		virsh -q vol-delete --pool default "$machine.img"
	fi
fi
rm -rf .vagrant
