#!/usr/bin/env bash
# Makes a Vagrant box (provider libvirt) of Debian 12 with the kernels 6.1 and 6.12, for machines that cannot fetch a
# public one. Root; needs mmdebstrap, extlinux, e2fsprogs and qemu-utils. A few minutes, 3 GB of temporary space.
#
# usage: build-box.sh FILE.box
#        vagrant box add --name protocg/test FILE.box && PROTOCG_BOX=protocg/test vagrant up
set -euo pipefail
. "$(dirname "$0")/../scripts/lib.sh"

[[ $# -eq 1 ]] || fail "usage: build-box.sh FILE.box"
out=$(realpath -m "$1")
for tool in mmdebstrap extlinux mke2fs qemu-img; do
	command -v "$tool" >/dev/null || fail "\`$tool\` is missing; on Debian: apt-get install mmdebstrap extlinux e2fsprogs qemu-utils"
done
[[ $EUID -eq 0 ]] || fail "this needs root"

# The well-known key that Vagrant replaces with one of its own at the first `vagrant up`.
key=$(find /usr/share /opt/vagrant -path '*keys/vagrant.pub' -print -quit 2>/dev/null)
[[ -s $key ]] || fail "Vagrant's insecure public key (keys/vagrant.pub) is not on this machine: is Vagrant installed?"

work=$(mktemp -d)
cleanup() {
	mountpoint -q "$work/disk" && umount "$work/disk"
	rm -rf "$work"
}
trap cleanup EXIT

packages=systemd-sysv,dbus,udev,openssh-server,sudo,iproute2,rsync,ca-certificates,kmod,initramfs-tools,zstd,procps
packages+=,linux-image-cloud-amd64,linux-image-6.12-cloud-amd64

# What makes a Debian tree a Vagrant box. Runs with the tree as its argument.
cat >"$work/customise" <<'SH'
#!/bin/sh
set -eu
tree=$1
chroot "$tree" useradd -m -s /bin/bash vagrant
echo 'vagrant ALL=(ALL) NOPASSWD:ALL' >"$tree/etc/sudoers.d/vagrant"
chmod 440 "$tree/etc/sudoers.d/vagrant"
mkdir -p -m 700 "$tree/home/vagrant/.ssh"
cp "$(dirname "$0")/key.pub" "$tree/home/vagrant/.ssh/authorized_keys"
chmod 600 "$tree/home/vagrant/.ssh/authorized_keys"
chroot "$tree" chown -R vagrant:vagrant /home/vagrant/.ssh
echo 'UseDNS no' >>"$tree/etc/ssh/sshd_config"

echo protocg-vm >"$tree/etc/hostname"
echo '127.0.0.1 localhost protocg-vm' >"$tree/etc/hosts"
echo 'LABEL=root / ext4 defaults,noatime 0 1' >"$tree/etc/fstab"
printf '[Match]\nName=eth*\n[Network]\nDHCP=yes\n' >"$tree/etc/systemd/network/eth.network"

# Identities are the machine's, not the box's.
: >"$tree/etc/machine-id"
rm -f "$tree"/etc/ssh/ssh_host_*
cat >"$tree/etc/systemd/system/ssh-keys.service" <<'UNIT'
[Unit]
Before=ssh.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key
[Install]
WantedBy=multi-user.target
UNIT
chroot "$tree" systemctl enable systemd-networkd ssh ssh-keys
SH
chmod +x "$work/customise"
cp "$key" "$work/key.pub"

say "Debian 12 with its kernels"
mmdebstrap --quiet --variant=minbase --components=main --include="$packages" \
	--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' \
	--customize-hook="$work/customise \"\$1\"" bookworm "$work/tree.tar"

# One file system on the whole disk: no partition table, so no partition devices are needed here. These features are
# the ones that extlinux cannot read.
say "disk"
truncate -s 6G "$work/disk.raw"
mke2fs -q -F -t ext4 -L root -O ^64bit,^metadata_csum,^metadata_csum_seed,^orphan_file "$work/disk.raw"
mkdir "$work/disk"
mount -o loop "$work/disk.raw" "$work/disk"
tar -C "$work/disk" -xpf "$work/tree.tar" --numeric-owner --xattrs
rm "$work/tree.tar"

extlinux=$work/disk/boot/extlinux
mkdir -p "$extlinux"
mapfile -t kernels < <(find "$work/disk/boot" -name 'vmlinuz-*' -printf '%f\n' | sed 's/^vmlinuz-//' | sort -V)
{
	printf 'SERIAL 0\nPROMPT 0\nDEFAULT %s\n' "${kernels[0]}"
	for kernel in "${kernels[@]}"; do
		printf 'LABEL %s\n LINUX /boot/vmlinuz-%s\n INITRD /boot/initrd.img-%s\n' "$kernel" "$kernel" "$kernel"
		printf ' APPEND root=LABEL=root rw console=ttyS0 quiet net.ifnames=0 edd=off\n'
	done
} >"$extlinux/extlinux.conf"
extlinux --install "$extlinux" 2>/dev/null
umount "$work/disk"

say "box"
qemu-img convert -O qcow2 -c "$work/disk.raw" "$work/box.img"
echo '{"provider": "libvirt", "format": "qcow2", "virtual_size": 6}' >"$work/metadata.json"
printf 'Vagrant.configure("2") do |config|\n  config.vm.provider(:libvirt) { |v| v.disk_bus = "virtio" }\nend\n' >"$work/Vagrantfile"
mkdir -p "$(dirname "$out")"
tar -C "$work" -czf "$out" metadata.json Vagrantfile box.img
ls -l "$out"
