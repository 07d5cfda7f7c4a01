/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The kernel structures that the guard looks into; libbpf finds where their members are in the running kernel. */
#ifndef PG_GUARD_KERNEL_H
#define PG_GUARD_KERNEL_H

#include "bpf.h"
#include "abi/abi.h"
#include <bpf/bpf_tracing.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct kernfs_node {
	u64 id;
	const char *name;
	struct kernfs_node *parent;
};

/* The same from Linux 6.14 on. */
struct kernfs_node___rcu {
	struct kernfs_node *__parent;
};

struct cgroup {
	int level;
	struct kernfs_node *kn;
	struct cgroup *ancestors[1]; /* as many as `level` says, and itself */
};

struct css_set {
	struct cgroup *dfl_cgrp;
};

struct kuid {
	u32 val;
};

struct cred {
	struct kuid uid;
};

struct hlist_node {
	struct hlist_node *next;
};

struct hlist_head {
	struct hlist_node *first;
};

struct ns_common {
	u32 inum;
};

struct mnt_namespace {
	struct ns_common ns;
};

struct nsproxy {
	struct mnt_namespace *mnt_ns;
};

struct task_struct {
	int tgid;
	struct nsproxy *nsproxy;
	struct hlist_node pid_links[1];
	struct css_set *cgroups;
	const struct cred *cred;
	char comm[16];
};

struct super_block {
	u32 s_dev;
	unsigned long s_magic;
};

struct inode {
	u16 i_mode;
	struct super_block *i_sb;
	unsigned long i_ino;
	u32 i_rdev;
	void *i_private;
};

struct pid {
	struct hlist_head tasks[1];
};

struct proc_dir_entry {
	const char *name;
};

struct ctl_table {
	const char *procname;
};

/* A file of procfs: of a process, of sysctl, or another. */
struct proc_inode {
	struct pid *pid;
	struct proc_dir_entry *pde;
	const struct ctl_table *sysctl_entry;
	struct inode vfs_inode;
};

struct qstr {
	const char *name;
};

struct dentry {
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
};

struct path {
	struct dentry *dentry;
};

struct file {
	void *private_data;
	struct inode *f_inode;
	struct path f_path;
	u32 f_mode;
};

struct vfsmount {
	struct super_block *mnt_sb;
};

struct list_head {
	struct list_head *next;
};

struct mount {
	struct mount *mnt_parent;
	struct vfsmount mnt;
	struct list_head mnt_mounts; /* below it */
	struct list_head mnt_share;  /* its peers */
};

struct fs_parameter {
	const char *key;
};

struct vm_area_struct {
	unsigned long vm_flags;
	struct file *vm_file;
};

struct sock_common {
	u16 skc_family;
	u16 skc_num;
};

struct sock_cgroup_data {
	struct cgroup *cgroup;
};

struct sock {
	struct sock_common __sk_common;
	u16 sk_protocol;
	u16 sk_type;
	struct sock_cgroup_data sk_cgrp_data;
};

struct socket {
	struct sock *sk;
};

#pragma clang attribute pop

/* include/linux/socket.h, net.h, in.h */
#define AF_UNIX 1
#define AF_PACKET 17
#define AF_NETLINK 16
#define AF_ALG 38
#define AF_VSOCK 40
#define AF_XDP 44
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define SOCK_RAW 3
#define SOCK_PACKET 10
#define IPPROTO_ICMP 1
#define IPPROTO_UDP 17
#define IPPROTO_ICMPV6 58
#define IPPROTO_MPTCP 262
/* include/uapi/linux/netlink.h: those with which a process asks, or configures addresses and routes */
#define PG_NETLINK_HARMLESS                                                                                \
	(1u << 0 /* ROUTE */ | 1u << 2 /* USERSOCK */ | 1u << 4 /* SOCK_DIAG */ | 1u << 7 /* SELINUX */ |  \
	 1u << 9 /* AUDIT */ | 1u << 11 /* CONNECTOR */ | 1u << 15 /* UEVENT */ | 1u << 16 /* GENERIC */ | \
	 1u << 21 /* CRYPTO */)
#define NETLINK_ROUTE 0
/* include/uapi/linux/in.h, in6.h, netfilter*.h, ip_vs.h: socket options that are no socket's own affair */
#define SOL_IP 0
#define SOL_IPV6 41
#define IP_IPSEC_POLICY 16
#define IP_XFRM_POLICY 17
#define IPV6_IPSEC_POLICY 34
#define IPV6_XFRM_POLICY 35
#define PG_TABLES 64 /* IPT_, IP6T_SO_SET_REPLACE and ..._ADD_COUNTERS; those of ARP, bridges and IPVS are higher */
/* include/uapi/linux/if_packet.h, if_ether.h, in6.h: what leads a packet elsewhere */
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define IPOPT_LSRR 131
#define IPOPT_SSRR 137
#define NEXTHDR_HOP 0
#define NEXTHDR_ROUTING 43
#define NEXTHDR_DEST 60
/* include/uapi/linux/magic.h */
#define CGROUP2_MAGIC 0x63677270
#define BPF_FS_MAGIC 0xcafe4a11
#define SOCKFS_MAGIC 0x534f434b
#define PROC_SUPER_MAGIC 0x9fa0
#define SYSFS_MAGIC 0x62656572
#define CGROUP1_MAGIC 0x27e0eb
#define BINFMTFS_MAGIC 0x42494e4d
/* include/linux/fs.h, kdev_t.h, include/uapi/linux/stat.h */
#define MAY_WRITE 2
#define S_IFMT 0170000
#define S_IFSOCK 0140000
#define S_IFCHR 0020000
#define PG_DEV(major, minor) ((major) << 20 | (minor))
#define FMODE_WRITE 2
/* include/linux/mman.h, mm.h, mount.h */
#define PROT_WRITE 2
#define PROT_EXEC 4
#define VM_EXEC 4
#define MNT_DETACH 2
/* include/uapi/asm-generic/ioctls.h */
#define TIOCSTI 0x5412
#define TIOCLINUX 0x541c
#define TIOCSETD 0x5423
/* include/linux/ptrace.h */
#define PTRACE_MODE_ATTACH 2
#define PTRACE_MODE_NOAUDIT 4
/* include/linux/kernel_read_file.h: firmware is loaded for devices, in whatever process needs one */
#define READING_FIRMWARE 1

#define EPERM 1

#endif
