/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The part that needs BPF LSM: it sees what processes inside do, with whatever socket or file. Plain lsm programs,
 * which run for every process of the machine: the cheap questions come first. */
#ifndef PG_GUARD_LSM_H
#define PG_GUARD_LSM_H

#include "guard/judge.h"

#define PG_REFUSED(way, what) (pg_refuse(way, 1, what) ? -EPERM : 0)

/* ---- sockets that are not IP, and IP sockets from outside ---- */

SEC("?lsm/socket_create") int BPF_PROG(gl_create, int family, int type, int protocol, int kern)
{
	struct pg_guard_what what = {};
	u32 way;

	if (kern)
		return 0;
	if (family == AF_PACKET || family == AF_XDP || type == SOCK_PACKET)
		way = PG_W_PACKET;
	else if (family == AF_VSOCK)
		way = PG_W_VSOCK;
	else if (family == AF_NETLINK && (protocol < 0 || protocol > 31 || !(PG_NETLINK_HARMLESS >> protocol & 1)))
		way = PG_W_NETLINK;
	else if (family != AF_UNIX && family != AF_INET && family != AF_INET6 && family != AF_NETLINK &&
		 family != AF_ALG)
		way = PG_W_FAMILIES;
	else
		return 0;
	if (!pg_inside())
		return 0;
	what.family = family;
	what.kind = type;
	what.protocol = protocol;
	return PG_REFUSED(way, &what);
}

/* An IP socket that was made outside, used by a process inside: the programs on the cgroup do not see it. */
static __noinline int pg_foreign(u64 address)
{
	struct sock *sk = (void *)address;
	struct pg_guard_what what = {};
	u16 family = BPF_CORE_READ(sk, __sk_common.skc_family);

	if (family != AF_INET && family != AF_INET6)
		return 0;
	if (!pg_inside() || pg_cgroup_inside((u64)BPF_CORE_READ(sk, sk_cgrp_data.cgroup)))
		return 0;
	what.family = family;
	what.kind = BPF_CORE_READ(sk, sk_type);
	what.protocol = BPF_CORE_READ(sk, sk_protocol);
	what.port = BPF_CORE_READ(sk, __sk_common.skc_num);
	return PG_REFUSED(PG_W_FOREIGN, &what);
}

SEC("?lsm/socket_bind") int BPF_PROG(gl_bind, struct socket *socket)
{
	return pg_foreign((u64)BPF_CORE_READ(socket, sk));
}

SEC("?lsm/socket_connect") int BPF_PROG(gl_connect, struct socket *socket)
{
	return pg_foreign((u64)BPF_CORE_READ(socket, sk));
}

SEC("?lsm/socket_accept") int BPF_PROG(gl_accept, struct socket *socket)
{
	return pg_foreign((u64)BPF_CORE_READ(socket, sk));
}

SEC("?lsm/file_receive") int BPF_PROG(gl_receive, struct file *file)
{
	struct socket *socket;

	if (BPF_CORE_READ(file, f_inode, i_sb, s_magic) != SOCKFS_MAGIC)
		return 0;
	socket = BPF_CORE_READ(file, private_data);
	return pg_foreign((u64)BPF_CORE_READ(socket, sk));
}

SEC("?lsm/socket_listen") int BPF_PROG(gl_listen, struct socket *socket)
{
	struct sock *sk = BPF_CORE_READ(socket, sk);
	struct pg_guard_what what = {};

	if (BPF_CORE_READ(sk, __sk_common.skc_family) != AF_UNIX)
		return pg_foreign((u64)sk);
	if (pg_switch_of(PG_W_UNIX) == PG_GUARD_ALLOW || !pg_inside())
		return 0;
	what.family = AF_UNIX;
	what.kind = BPF_CORE_READ(sk, sk_type);
	return PG_REFUSED(PG_W_UNIX, &what);
}

/* ---- the enforcer ---- */

/* Its arguments differ between kernels; none is needed. */
SEC("?lsm/bpf") int BPF_PROG(gl_bpf)
{
	struct pg_guard_what what = {};

	return pg_inside() ? PG_REFUSED(PG_W_BPF, &what) : 0;
}

static __always_inline int pg_touch_agent(struct task_struct *task, u32 number)
{
	struct pg_guard_what what = {.number = number};

	if (!pg_is_agent(task) || !pg_inside())
		return 0;
	what.target = BPF_CORE_READ(task, tgid);
	return PG_REFUSED(PG_W_AGENT, &what);
}

/* /proc/PID/mem, maps, fd and others, pidfd_getfd and process_vm_readv ask here too. */
SEC("?lsm/ptrace_access_check") int BPF_PROG(gl_ptrace, struct task_struct *task, unsigned int mode)
{
	struct pg_guard_what what = {};
	u32 way;

	if (pg_is_agent(task))
		way = PG_W_AGENT;
	else if (mode & PTRACE_MODE_ATTACH && !pg_task_inside(task))
		way = PG_W_PTRACE;
	else
		return 0;
	if (!pg_inside())
		return 0;
	/* Who only looks whether it may, as ps does, is refused in silence. */
	if (mode & PTRACE_MODE_NOAUDIT)
		return pg_switch_of(way) == PG_GUARD_DENY ? -EPERM : 0;
	what.target = BPF_CORE_READ(task, tgid);
	what.number = mode;
	return PG_REFUSED(way, &what);
}

SEC("?lsm/task_kill") int BPF_PROG(gl_kill, struct task_struct *task, void *info, int signal)
{
	return pg_touch_agent(task, signal);
}

SEC("?lsm/task_setrlimit") int BPF_PROG(gl_rlimit, struct task_struct *task)
{
	return pg_touch_agent(task, 0);
}

SEC("?lsm/task_setscheduler") int BPF_PROG(gl_scheduler, struct task_struct *task)
{
	return pg_touch_agent(task, 0);
}

SEC("?lsm/task_setnice") int BPF_PROG(gl_nice, struct task_struct *task)
{
	return pg_touch_agent(task, 0);
}

SEC("?lsm/task_setioprio") int BPF_PROG(gl_ioprio, struct task_struct *task)
{
	return pg_touch_agent(task, 0);
}

/* A file's owner gets a signal when the file is ready (fcntl F_SETOWN): whoever made it so, and in whatever process
 * that happens, the agent is no owner. */
SEC("?lsm/file_send_sigiotask") int BPF_PROG(gl_sigio, struct task_struct *task, void *owner, int signal)
{
	struct pg_guard_what what = {.number = signal};

	if (!pg_is_agent(task))
		return 0;
	what.target = BPF_CORE_READ(task, tgid);
	return pg_refuse(PG_W_AGENT, 0, &what) ? -EPERM : 0;
}

/* The last mount of a bpf file system takes its pins along. */
SEC("?lsm/sb_umount") int BPF_PROG(gl_umount, struct vfsmount *mount)
{
	struct pg_guard_what what = {};

	if (BPF_CORE_READ(mount, mnt_sb, s_magic) != BPF_FS_MAGIC || !pg_inside())
		return 0;
	return PG_REFUSED(PG_W_PINS, &what);
}

/* ---- files ---- */

/* Is this file of cgroupfs below a cgroup under guard, or the folder of one? */
static __noinline int pg_kernfs_inside(u64 address)
{
	struct kernfs_node *kn = (void *)address;
	u64 id;
	int i;

	for (i = 0; i < PG_MAX_GUARD_DEPTH + 1; i++) {
		if (!kn)
			break;
		id = BPF_CORE_READ(kn, id);
		if (bpf_map_lookup_elem(&guard_places, &id))
			return 1;
		if (bpf_core_field_exists(struct kernfs_node, parent))
			kn = BPF_CORE_READ(kn, parent);
		else
			kn = BPF_CORE_READ((struct kernfs_node___rcu *)kn, __parent);
	}
	return 0;
}

static __always_inline int pg_is_notes(struct inode *inode)
{
	u32 zero = 0;
	struct pg_guard_agent *agent = bpf_map_lookup_elem(&guard_agent, &zero);

	return agent && agent->notes && BPF_CORE_READ(inode, i_ino) == agent->notes &&
	       BPF_CORE_READ(inode, i_sb, s_dev) == agent->notes_dev;
}

#define PG_NAME 24

/* Does a name of the kernel's begin so? With its end, it is the whole name. */
static __always_inline int pg_named(const char *name, const char *wanted, u32 length)
{
	char text[PG_NAME] = {};
	u32 i;

	if (bpf_probe_read_kernel_str(text, sizeof(text), name) < 0)
		return 0;
	for (i = 0; i < length; i++)
		if (text[i] != wanted[i])
			return 0;
	return 1;
}
#define PG_IS_NAMED(name, wanted) pg_named(name, wanted, sizeof(wanted))

/* What a file of procfs is a way to: the agent, or programs that the kernel starts outside of every cgroup. */
static __noinline u32 pg_proc_way(u64 address)
{
	struct proc_inode *file = (void *)(address - bpf_core_field_offset(struct proc_inode, vfs_inode));
	struct pid *pid = BPF_CORE_READ(file, pid);
	const struct ctl_table *sysctl = BPF_CORE_READ(file, sysctl_entry);
	struct hlist_node *link;
	const char *name;

	if (pid) {
		link = BPF_CORE_READ(pid, tasks[0].first);
		if (link && pg_is_agent((void *)link - bpf_core_field_offset(struct task_struct, pid_links)))
			return PG_W_AGENT;
		return PG_W_COUNT;
	}
	if (sysctl) {
		name = BPF_CORE_READ(sysctl, procname);
		return PG_IS_NAMED(name, "core_pattern") || PG_IS_NAMED(name, "modprobe") ? PG_W_KERNEL : PG_W_COUNT;
	}
	name = BPF_CORE_READ(file, pde, name);
	return PG_IS_NAMED(name, "sysrq-trigger") ? PG_W_KERNEL : PG_W_COUNT;
}

/* The same for the two other file systems that name such programs. */
static __noinline u32 pg_helper_way(u64 address)
{
	struct kernfs_node *file = (void *)address;
	const char *name = BPF_CORE_READ(file, name);

	return PG_IS_NAMED(name, "uevent_helper") || PG_IS_NAMED(name, "release_agent") ? PG_W_KERNEL : PG_W_COUNT;
}

/*
 * Whoever opens a file to write, makes or removes a name, or is cloned into a cgroup has to have the right to write the
 * file or the folder, root too. The two folders below are asked for when names in them are made, removed or changed.
 */
SEC("?lsm/inode_permission") int BPF_PROG(gl_permission, struct inode *inode, int mask)
{
	struct pg_guard_what what = {};
	u64 magic;
	u32 way;

	if (!(mask & MAY_WRITE))
		return 0;
	magic = BPF_CORE_READ(inode, i_sb, s_magic);
	if (magic == CGROUP2_MAGIC)
		way = PG_W_ESCAPE;
	else if (magic == BPF_FS_MAGIC || pg_is_notes(inode))
		way = PG_W_PINS;
	else if (magic == BINFMTFS_MAGIC)
		way = PG_W_KERNEL;
	else if (magic == PROC_SUPER_MAGIC)
		way = pg_proc_way((u64)inode);
	else if (magic == SYSFS_MAGIC || magic == CGROUP1_MAGIC)
		way = pg_helper_way((u64)BPF_CORE_READ(inode, i_private));
	else
		return 0;
	if (way == PG_W_COUNT || !pg_inside())
		return 0;
	if (way == PG_W_ESCAPE && pg_kernfs_inside((u64)BPF_CORE_READ(inode, i_private)))
		return 0;
	return PG_REFUSED(way, &what);
}

SEC("?lsm/file_open") int BPF_PROG(gl_open, struct file *file)
{
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	struct pg_guard_what what = {};
	u32 device;

	if ((BPF_CORE_READ(inode, i_mode) & S_IFMT) != S_IFCHR)
		return 0;
	device = BPF_CORE_READ(inode, i_rdev);
	if ((device != PG_DEV(10, 200) && device != PG_DEV(10, 238)) || !pg_inside())
		return 0;
	return PG_REFUSED(PG_W_TUN, &what);
}

/* ---- the kernel ---- */

SEC("?lsm/locked_down") int BPF_PROG(gl_locked, int reason)
{
	struct pg_guard_what what = {.number = reason};

	return pg_inside() ? PG_REFUSED(PG_W_KERNEL, &what) : 0;
}

SEC("?lsm/kernel_read_file") int BPF_PROG(gl_read, struct file *file, int id)
{
	struct pg_guard_what what = {};

	return id != READING_FIRMWARE && pg_inside() ? PG_REFUSED(PG_W_KERNEL, &what) : 0;
}

SEC("?lsm/kernel_load_data") int BPF_PROG(gl_load, int id)
{
	struct pg_guard_what what = {};

	return id != READING_FIRMWARE && pg_inside() ? PG_REFUSED(PG_W_KERNEL, &what) : 0;
}

#endif
