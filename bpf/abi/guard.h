/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The guard: ways around the enforcer, and what is done about each. A way has a switch in the policy's [guard] section.
 */
#ifndef PG_ABI_GUARD_H
#define PG_ABI_GUARD_H

#include "types.h"
#include "limits.h"

/* W(NAME, "name of the switch", default, "what is tried", "what is open where the kernel cannot close it") */
#define PG_WAYS(W)                                                                                                \
	W(MPTCP, "mptcp", DENY, "a Multipath TCP socket", "streams that are spread over several connections")     \
	W(RAW, "raw", DENY, "a raw IP socket", "segments that no TCP socket has sent or received")                \
	W(TRANSPORTS, "transports", DENY, "an IP socket of a transport other than TCP, UDP and ping",             \
	  "SCTP, DCCP, UDP-Lite, SMC and L2TP")                                                                   \
	W(UDP, "udp", DENY, "UDP on a port of the policy", "HTTP/3 (QUIC) on the policy's ports")                 \
	W(LISTEN, "undeclared_listen", DENY, "listening on a port that the policy does not declare",              \
	  "gRPC on ports that nothing looks at")                                                                  \
	W(CONNECT, "undeclared_connect", DENY, "connecting to where the policy does not say",                     \
	  "connections to anywhere, served in reverse too")                                                       \
	W(PACKET, "packet", DENY, "a packet socket (AF_PACKET, AF_XDP)", "whole frames past the IP stack")        \
	W(VSOCK, "vsock", DENY, "a vsock socket", "streams between virtual machines and their host")              \
	W(FAMILIES, "families", DENY, "a socket of a family that is none of UNIX, IP, netlink and ALG",           \
	  "TIPC, SMC, RDS, KCM, Bluetooth and others")                                                            \
	W(NETLINK, "netlink", DENY, "configuring packet filters, traffic control or IPsec",                       \
	  "connections that are redirected behind the filter (NAT, TPROXY, tc)")                                  \
	W(UNIX, "unix_listen", REPORT, "listening on a UNIX socket", "gRPC over UNIX sockets")                    \
	W(FOREIGN, "foreign_sockets", DENY, "a network socket that was made outside the cgroup",                  \
	  "sockets that were inherited, or passed in")                                                            \
	W(BPF, "bpf", DENY, "a bpf() call", "programs, maps and links that change or end the enforcement")        \
	W(AGENT, "agent", DENY, "an attack on the agent", "the agent can be traced, killed or slowed down")       \
	W(PINS, "pins", DENY, "a change to pins or notes", "pinned enforcement can be removed")                   \
	W(PTRACE, "ptrace", DENY, "taking over a process outside the cgroup", "processes outside can act for it") \
	W(ESCAPE, "cgroup_escape", DENY, "a write to a cgroup outside its own part of the tree",                  \
	  "processes can leave the cgroup, and the policy with it")                                               \
	W(TUN, "tun", DENY, "a device that carries whole packets (tun, vhost-net, ppp, line disciplines)",        \
	  "a TCP stack of its own, over a tunnel device")                                                         \
	W(TEXT, "tls_text", DENY, "a change to the code of a TLS library that is hooked",                         \
	  "hooks can be taken out, and TLS passes unread")                                                        \
	W(LIBRARY, "tls_library", ALLOW, "running a TLS library that no hook covers", "TLS that no hook reads")   \
	W(KERNEL, "kernel", DENY,                                                                                 \
	  "a change to the kernel, or to what it starts (modules, /dev/mem, tracefs, core_pattern)",              \
	  "a root process can change the kernel")

#define PG_WAY_ENUM(name, text, default_, what, open) PG_W_##name,
enum pg_way { PG_WAYS(PG_WAY_ENUM) PG_W_COUNT };

enum pg_guard_switch { PG_GUARD_DENY, PG_GUARD_REPORT, PG_GUARD_ALLOW };

/* Where connections may go. IPv4 is ::ffff:0:0/96. */
struct pg_reach {
	u8 address[16];
	u8 mask[16];
	u16 first; /* ports, inclusive */
	u16 last;
	u32 reserved;
};
PG_SIZE(struct pg_reach, 40);

/* The policy's numbers for the guard; read-only data of its programs. */
struct pg_guard_config {
	u32 direction; /* enum pg_direction: whose end of a connection has the policy's ports */
	u32 reaches;
	u8 way[32];	    /* enum pg_guard_switch, by enum pg_way */
	u64 policy[1024];   /* bit p: port p is the policy's */
	u64 declared[1024]; /* bit p: [guard] listen names port p */
	struct pg_reach reach[PG_MAX_GUARD_CONNECT];
};
PG_SIZE(struct pg_guard_config, 40 + 2 * 8192 + 40 * PG_MAX_GUARD_CONNECT);

/* Whom the guard protects; the agent writes it. */
struct pg_guard_agent {
	u64 notes;     /* inode of the folder with locks and notes */
	u32 notes_dev; /* and its device, as the kernel counts */
	u32 tgid;      /* the agent's process; 0: none runs */
	u32 mounts[2]; /* inodes of its mount namespace, and of the machine's first process's */
	u32 shows;     /* enum pg_library_state of the files that it shows now; 0: it shows none */
	u32 shown;     /* by how many names they are known since */
};
PG_SIZE(struct pg_guard_agent, 32);

/*
 * A file with TLS code, as the kernel knows it: not by the numbers of stat(), which some file systems make up. An
 * overlay file system has two for a file, its own and that of the layer below. So the agent shows a file to the
 * programs, by mapping it in a way that nobody else does (guard/libraries.h), and they write down what they see.
 */
struct pg_guard_library {
	u64 inode;
	u32 device; /* as the kernel counts */
	u32 reserved;
};
PG_SIZE(struct pg_guard_library, 16);

enum pg_library_state {
	PG_LIBRARY_HOOKED = 1, /* its code stays as it is. The key 0, 0 has this too if any file has, or is to have */
	PG_LIBRARY_PLAIN,      /* it holds TLS, whatever it is called, and is not hooked */
};

/* What was tried; what does not apply is 0. */
struct pg_guard_what {
	u16 family;
	u16 kind; /* SOCK_STREAM, ... */
	u16 protocol;
	u16 port;
	u32 target; /* process */
	u32 number; /* of a signal, a lockdown reason, ... */
	u8 address[16];
};
PG_SIZE(struct pg_guard_what, 32);

/* In the ring buffer of all events; told apart by its length. */
struct pg_guard_event {
	u64 time_ns;
	u64 cgroup; /* of the process; 0: a packet was refused, so no process is known */
	u32 way;    /* enum pg_way */
	u32 verdict;
	u32 pid;
	u32 uid;
	u8 name[16];
	struct pg_guard_what what;
};
PG_SIZE(struct pg_guard_event, 80);

#endif
