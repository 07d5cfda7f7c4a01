#!/usr/bin/env bash
# Runs every test inside the running Vagrant machine: built here, copied there as one tree, run there as root.
# Ends with the tests' status.
set -euo pipefail
. "$(dirname "$0")/../scripts/lib.sh"
cd "$root"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
scripts/build-tests.sh "$work/programs"
tests/peers/python/setup.sh "$target/differential-venv" tests/differential/requirements.txt >/dev/null
tree=$target/vagrant/tree
mkdir -p "$tree"
tests/vm/bundle.py "$work/programs" "$tree"
cp "$work/programs" "$tree/programs"

vagrant ssh-config >"$work/ssh"
there() {
	ssh -F "$work/ssh" default "$@"
}
say "copying $(du -sh "$tree" | cut -f 1) into the machine"
there sudo rm -rf /var/lib/protocg-tests '&&' sudo mkdir /var/lib/protocg-tests
tar -C "$tree" -c . | gzip -1 | there sudo tar -C /var/lib/protocg-tests -xz

# The tree is a machine's root but for what only the kernel has. Tests change how its mounts propagate, so it has to be one.
cat >"$work/run" <<SH
set -eu
mount --bind /var/lib/protocg-tests /var/lib/protocg-tests
cd /var/lib/protocg-tests
for place in proc sys dev; do
	mount --rbind /\$place \$place
done
mount -t tmpfs none run
mkdir -p old
chmod 1777 tmp # not a file system of its own: the checkout may lie there
slow=1
[ "\$(systemd-detect-virt)" != qemu ] || slow=10 # emulated
echo "==> kernel \$(uname -r), \$(nproc) CPUs, \$(systemd-detect-virt)"
# The root of the mount namespace, which is what a container's runtime enters when it adds a process: chroot alone is not.
pivot_root . old
cd /
umount -l old
exec /usr/bin/env -i PATH=/usr/bin:/usr/sbin:/bin:/sbin HOME=/root PROTOCG_TEST_SLOW=\$slow \
	CARGO_TARGET_DIR=$target $root/scripts/run-programs.sh /programs
SH
there sudo unshare --mount sh <"$work/run"
