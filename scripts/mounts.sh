#!/usr/bin/env bash
# Mounts what the enforcer needs and containers often lack. Root.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

mounted() {
	awk -v kind="$1" '{ for (i = 1; i <= NF; i++) if ($i == "-" && $(i + 1) == kind) found = 1 } END { exit !found }' \
		/proc/self/mountinfo
}

if ! mounted bpf; then
	mkdir -p /sys/fs/bpf
	mount -t bpf bpf /sys/fs/bpf || fail "cannot mount the bpf file system on /sys/fs/bpf"
fi
if ! mounted cgroup2; then
	mkdir -p /sys/fs/cgroup/unified
	mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified || fail "cannot mount cgroup2"
fi
