#!/usr/bin/env bash
# Boots a kernel on a disk image, runs a command in it, and ends with the command's status. QEMU, with KVM where it can
# be used. What the guest writes to the disk is thrown away.
#
# usage: boot.sh [-a BOOT_LINE] [-o RESULTS] KERNEL IMAGE COMMAND
#
# KERNEL is a folder that kernel.sh printed, IMAGE a file system that matrix.py made. BOOT_LINE is added to the kernel's.
# What COMMAND prints goes to stdout; what it writes to /dev/ttyS1 goes to the file RESULTS.
set -euo pipefail
. "$(dirname "$0")/../../scripts/lib.sh"

more='' results=/dev/null
while getopts a:o: option; do
	case $option in
	a) more=$OPTARG ;;
	o) results=$OPTARG ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))
[[ $# -eq 3 ]] || fail "usage: boot.sh [-a BOOT_LINE] [-o RESULTS] KERNEL IMAGE COMMAND"
kernel=$1 image=$2 command=$3
seconds=${PROTOCG_VM_SECONDS:-1800}

# What the kernel needs for its disk, and the tests for their networks and sockets, or for ways around the enforcer. Those
# that are built in, or that this kernel does not have, are none to load.
modules='virtio_pci virtio_blk ext4 overlay veth inet_diag tcp_diag unix_diag tls tun vsock vsock_loopback sctp tipc nfnetlink l2tp_ip xfrm_user sch_ingress cls_bpf iptable_filter ip6table_filter ppp_generic'

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/initramfs"/{bin,dev,proc,sys,mnt,modules}
cp "$(command -v busybox)" "$work/initramfs/bin/busybox"
release=$(cat "$kernel/release")
number=0
for module in $modules; do
	modprobe -d "$kernel" -S "$release" --show-depends "$module" 2>/dev/null || true
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
	number=$((number + 1))
	name=$(printf '%03d-%s' "$number" "$(basename "${file%.xz}")")
	case $file in
	*.xz) xz -dc "$file" >"$work/initramfs/modules/$name" ;;
	*) cp "$file" "$work/initramfs/modules/$name" ;;
	esac
done

cat >"$work/initramfs/init" <<'SH'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
for module in /modules/*; do
	insmod "$module"
done
disk=/dev/vda
waited=0
while [ ! -b $disk ] && [ $waited -lt 100 ]; do
	sleep 0.1
	waited=$((waited + 1))
done
mount -t ext4 -o noatime $disk /mnt || poweroff -f
cp /command /start /mnt/
mount --move /dev /mnt/dev
mount --move /proc /mnt/proc
mount --move /sys /mnt/sys
exec switch_root /mnt /bin/busybox sh /start
SH
cat >"$work/initramfs/start" <<'SH'
export PATH=/usr/bin:/usr/sbin:/bin:/sbin HOME=/root
mkdir -p /dev/pts /dev/shm
mount -t devpts none /dev/pts
mount -t tmpfs none /dev/shm
mount -t tmpfs none /run
chmod 1777 /tmp # not a file system of its own: the checkout may lie there
mount -t securityfs none /sys/kernel/security
mount -t cgroup2 none /sys/fs/cgroup
mount -t bpf none /sys/fs/bpf
mkdir /run/cgroup-v1
mount -t cgroup -o none,name=tests none /run/cgroup-v1 # a test refuses it
mount -t tracefs none /sys/kernel/tracing
busybox hostname guest
busybox ip link set lo up
stty -F /dev/ttyS1 raw
echo "guest: up after $(cut -d ' ' -f 1 /proc/uptime) s"
bash /command
printf '\nguest: ended with status %d\n' $?
sync
poweroff -f
SH
printf '%s\n' "$command" >"$work/initramfs/command"
chmod +x "$work/initramfs/init"
(cd "$work/initramfs" && find . | cpio -o -H newc --quiet --owner=0:0) >"$work/initramfs.cpio"

found=$("$(dirname "$0")/qemu.sh" "$target/vm")
qemu=${found% *} how=${found##* }
if [[ $how = kvm ]]; then
	accelerator=(-accel kvm -cpu host)
else
	accelerator=(-accel "tcg,thread=$how" -cpu max)
fi
: >"$results"
timeout --foreground "$seconds" "$qemu" "${accelerator[@]}" -smp "${PROTOCG_VM_CPUS:-2}" \
	-m "${PROTOCG_VM_MEMORY:-2048}" -nodefaults -no-reboot -display none -monitor none \
	-kernel "$kernel/vmlinuz" -initrd "$work/initramfs.cpio" \
	-append "console=ttyS0 quiet panic=-1 oops=panic softlockup_panic=1 edd=off $more" \
	-drive "file=$image,format=raw,if=virtio,snapshot=on" -device virtio-rng-pci \
	-serial stdio -serial "file:$results" </dev/null | sed -u 's/\r*$//' | tee "$work/log" | sed -u -n '/^guest: up/,$p' || true

status=$(sed -n 's/^guest: ended with status \([0-9]*\)$/\1/p' "$work/log" | tail -n 1)
if [[ -z $status ]]; then
	tail -n 30 "$work/log" | cut -c 1-200 >&2
	fail "the guest did not come to its end within $seconds s"
fi
exit "$status"
