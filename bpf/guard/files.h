/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* LSM programs: cgroups, pins, and files that lead to the agent or the kernel. */
#ifndef PG_GUARD_FILES_H
#define PG_GUARD_FILES_H

#include "guard/judge.h"

static __always_inline struct kernfs_node *pg_parent(struct kernfs_node *kn)
{
	if (bpf_core_field_exists(struct kernfs_node, parent))
		return BPF_CORE_READ(kn, parent);
	return BPF_CORE_READ((struct kernfs_node___rcu *)kn, __parent);
}

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
		kn = pg_parent(kn);
	}
	return 0;
}

static __always_inline int pg_is_notes(struct inode *inode)
{
	struct pg_guard_agent *agent = pg_agent();

	return agent && agent->notes && BPF_CORE_READ(inode, i_ino) == agent->notes &&
	       BPF_CORE_READ(inode, i_sb, s_dev) == agent->notes_dev;
}

/*
 * What a file of procfs is a way to: the agent, programs that the kernel starts outside of every cgroup, or the hooks
 * of these very programs: without ftrace the kernel does not call them.
 */
static __noinline u32 pg_proc_way(u64 address)
{
	struct proc_inode *file = (void *)(address - bpf_core_field_offset(struct proc_inode, vfs_inode));
	struct pid *pid = BPF_CORE_READ(file, pid);
	const struct ctl_table *sysctl = BPF_CORE_READ(file, sysctl_entry);
	struct hlist_node *link;
	struct pg_word name;

	if (pid) {
		link = BPF_CORE_READ(pid, tasks[0].first);
		if (link && pg_is_agent((void *)link - bpf_core_field_offset(struct task_struct, pid_links)))
			return PG_W_AGENT;
		return PG_W_COUNT;
	}
	if (sysctl) {
		name = pg_word_at(BPF_CORE_READ(sysctl, procname));
		return PG_IS_NAMED(&name, "core_pattern") || PG_IS_NAMED(&name, "modprobe") ||
				       PG_IS_NAMED(&name, "hotplug") || PG_IS_NAMED(&name, "poweroff_cmd") ||
				       PG_IS_NAMED(&name, "ftrace_enabled")
			       ? PG_W_KERNEL
			       : PG_W_COUNT;
	}
	name = pg_word_at(BPF_CORE_READ(file, pde, name));
	return PG_IS_NAMED(&name, "sysrq-trigger") ? PG_W_KERNEL : PG_W_COUNT;
}

/* The same for the two other file systems that name such programs; some are parameters of modules. */
static __noinline u32 pg_helper_way(u64 address)
{
	struct kernfs_node *file = (void *)address;
	struct pg_word name = pg_word_at(BPF_CORE_READ(file, name));

	if (PG_IS_NAMED(&name, "uevent_helper") || PG_IS_NAMED(&name, "release_agent"))
		return PG_W_KERNEL;
	file = pg_parent(file);
	name = pg_word_at(BPF_CORE_READ(file, name));
	return PG_IS_NAMED(&name, "parameters") ? PG_W_KERNEL : PG_W_COUNT;
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
	else if (pg_switch_of(PG_W_TEXT) != PG_GUARD_ALLOW && pg_library(inode) == PG_LIBRARY_HOOKED)
		way = PG_W_TEXT;
	else
		return 0;
	if (way == PG_W_COUNT || !pg_inside())
		return 0;
	if (way == PG_W_ESCAPE && pg_kernfs_inside((u64)BPF_CORE_READ(inode, i_private)))
		return 0;
	return PG_REFUSED(way, &what);
}

/* ---- opening, renaming, unmounting ---- */

/* tun, vhost-net, ppp: whatever their names are. */
static __always_inline int pg_is_tunnel(struct inode *inode)
{
	u32 device;

	if ((BPF_CORE_READ(inode, i_mode) & S_IFMT) != S_IFCHR)
		return 0;
	device = BPF_CORE_READ(inode, i_rdev);
	return device == PG_DEV(10, 200) || device == PG_DEV(10, 238) || device == PG_DEV(108, 0);
}

/* Locks and notes, to read too: who has a lock open can hold it. */
static __always_inline int pg_is_in_notes(struct path *path)
{
	return pg_is_notes(BPF_CORE_READ(path, dentry, d_parent, d_inode));
}

/* The code of a process, by whatever process. */
static __always_inline int pg_is_memory(struct file *file)
{
	struct pg_word name;

	if (!(BPF_CORE_READ(file, f_mode) & FMODE_WRITE) || !pg_any_hooked())
		return 0;
	name = pg_word_at(BPF_CORE_READ(file, f_path.dentry, d_name.name));
	return PG_IS_NAMED(&name, "mem");
}

SEC("?lsm/file_open") int BPF_PROG(gl_open, struct file *file)
{
	struct inode *inode = BPF_CORE_READ(file, f_inode);
	struct pg_guard_what what = {};
	u32 way;

	if (pg_is_tunnel(inode))
		way = PG_W_TUN;
	else if (pg_is_in_notes(&file->f_path))
		way = PG_W_PINS;
	else if (BPF_CORE_READ(inode, i_sb, s_magic) == PROC_SUPER_MAGIC && pg_is_memory(file))
		way = PG_W_TEXT;
	else
		return 0;
	return pg_inside() ? PG_REFUSED(way, &what) : 0;
}

/* Keys put into a terminal, which may be the agent's: an interrupt is one. Line disciplines: some make a network device
 * of a terminal. */
static __always_inline int pg_ioctl(u32 command)
{
	struct pg_guard_what what = {.number = command};
	u32 way;

	if (command == TIOCSTI || command == TIOCLINUX)
		way = PG_W_AGENT;
	else if (command == TIOCSETD)
		way = PG_W_TUN;
	else
		return 0;
	return pg_inside() ? PG_REFUSED(way, &what) : 0;
}

SEC("?lsm/file_ioctl") int BPF_PROG(gl_ioctl, struct file *file, unsigned int command)
{
	return pg_ioctl(command);
}

/* Of 32-bit programs; older kernels have one hook for both. */
SEC("?lsm/file_ioctl_compat") int BPF_PROG(gl_ioctl32, struct file *file, unsigned int command)
{
	return pg_ioctl(command);
}

SEC("?lsm/path_truncate") int BPF_PROG(gl_truncate, struct path *path)
{
	struct pg_guard_what what = {};

	return pg_is_in_notes(path) && pg_inside() ? PG_REFUSED(PG_W_PINS, &what) : 0;
}

/* The folder of notes: its own name is in a folder that is everybody's. */
SEC("?lsm/inode_rename")
int BPF_PROG(gl_rename, struct inode *from, struct dentry *old, struct inode *to, struct dentry *new)
{
	struct inode *inode = BPF_CORE_READ(old, d_inode), *other = BPF_CORE_READ(new, d_inode);
	struct pg_guard_what what = {};

	if (!pg_is_notes(inode) && !(other && pg_is_notes(other)))
		return 0;
	return pg_inside() ? PG_REFUSED(PG_W_PINS, &what) : 0;
}

/* Where the agent and the machine see the pins? */
static __always_inline int pg_in_main_mounts(void)
{
	struct pg_guard_agent *agent = pg_agent();
	struct task_struct *task = pg_current();
	u32 here = BPF_CORE_READ(task, nsproxy, mnt_ns, ns.inum);

	return agent && here && (agent->mounts[0] == here || agent->mounts[1] == here);
}

static __always_inline int pg_is_empty(struct list_head *list)
{
	return BPF_CORE_READ(list, next) == list;
}

/*
 * The last mount of a bpf file system takes its pins along. A mount that is detached takes along what is mounted below
 * it, and nobody is asked about that: only what has nothing below may be detached, where the agent's or the machine's
 * mounts are, and where others have the same mounts (are peers), who would lose them too.
 */
SEC("?lsm/sb_umount") int BPF_PROG(gl_umount, struct vfsmount *vfs, int flags)
{
	struct mount *mount = (void *)vfs - bpf_core_field_offset(struct mount, mnt);
	struct mount *parent = BPF_CORE_READ(mount, mnt_parent);
	struct pg_guard_what what = {};

	if (BPF_CORE_READ(vfs, mnt_sb, s_magic) != BPF_FS_MAGIC) {
		if (!(flags & MNT_DETACH) || pg_is_empty(&mount->mnt_mounts))
			return 0;
		if (!pg_in_main_mounts() && pg_is_empty(&mount->mnt_share) && pg_is_empty(&parent->mnt_share))
			return 0;
	}
	return pg_inside() ? PG_REFUSED(PG_W_PINS, &what) : 0;
}

#endif
