#!/usr/bin/env bash
# Runs a command with a libvirtd of its own, for machines where none runs as a service: containers, CI. Network, mounts
# and processes are in namespaces of their own, so that everything ends with the command. Root; needs libvirt-daemon-system,
# qemu-system-x86, dnsmasq-base, iptables, slirp4netns and vagrant-libvirt.
#
# usage: with-libvirtd.sh COMMAND
#        vagrant/with-libvirtd.sh 'vagrant up && make test; s=$?; make vm-down; exit $s'
#
# State, boxes too, is kept in $PROTOCG_LIBVIRT, default <target>/libvirt.
set -euo pipefail
. "$(dirname "$0")/../scripts/lib.sh"

[[ $# -eq 1 ]] || fail "usage: with-libvirtd.sh COMMAND"
[[ $EUID -eq 0 ]] || fail "this needs root"
for tool in libvirtd virsh slirp4netns dnsmasq vagrant; do
	command -v "$tool" >/dev/null || fail "\`$tool\` is missing"
done
state=${PROTOCG_LIBVIRT:-$target/libvirt}
mkdir -p "$state"/{etc,lib,cache,log,home}
cp -a /etc/libvirt/. "$state/etc/"
cp -an /var/lib/libvirt/. "$state/lib/"

# No other service to ask for users, security labels, logs or cgroups.
cat >>"$state/etc/qemu.conf" <<'CONF'
user = "root"
group = "root"
security_driver = "none"
stdio_handler = "file"
namespaces = []
cgroup_controllers = []
remember_owner = 0
CONF
printf 'auth_unix_%s = "none"\n' rw ro >>"$state/etc/libvirtd.conf"
echo 'unix_sock_group = "root"' >>"$state/etc/libvirtd.conf"

cat >"$state/inside" <<'SH'
set -eu
state=$1 command=$2
ip link set lo up
for pair in etc:/etc/libvirt lib:/var/lib/libvirt cache:/var/cache/libvirt log:/var/log/libvirt; do
	mkdir -p "${pair#*:}"
	mount --bind "$state/${pair%%:*}" "${pair#*:}"
done
mkdir -p /run/libvirt
mount -t tmpfs none /run/libvirt
# the network is there when this can be read
read -r -n 1 _ <"$state/network" || true
libvirtd >"$state/libvirtd.log" 2>&1 &
export LIBVIRT_DEFAULT_URI=qemu:///system
for _ in $(seq 100); do
	virsh version >/dev/null 2>&1 && break
	sleep 0.2
done
export VAGRANT_HOME="$state/home" VAGRANT_CHECKPOINT_DISABLE=1
exec bash -c "$command"
SH

rm -f "$state/network"
mkfifo "$state/network"
unshare --net --mount --pid --fork --mount-proc --kill-child bash "$state/inside" "$state" "$1" </dev/null &
outer=$!
for _ in $(seq 100); do
	inner=$(pgrep -P "$outer" | head -n 1 || true)
	[[ -z $inner ]] || break
	sleep 0.1
done
slirp4netns --configure --mtu=1500 --disable-host-loopback --ready-fd=4 "$inner" tap0 \
	>"$state/slirp.log" 2>&1 4>"$state/network" &
uplink=$!
# Also when this script is ended from outside. unshare heeds no other signal, and takes the namespaces with it.
trap 'kill "$uplink" 2>/dev/null || true; kill -KILL "$outer" 2>/dev/null || true' EXIT
trap 'exit 143' TERM INT
status=0
wait "$outer" || status=$?
exit "$status"
