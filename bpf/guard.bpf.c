// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Architecture:
 *
 *   gc_*   programs on the cgroup: sockets that were made inside ──► guard/socket.h
 *   gl_*   lsm programs: what processes inside do
 *            with sockets and the network ──► guard/net.h
 *            to bpf(), the agent and other processes ──► guard/agent.h
 *            to cgroups, pins, procfs and sysfs, devices ──► guard/files.h
 *            to TLS libraries ──► guard/libraries.h
 *            to the kernel ──► guard/lockdown.h
 *
 * lsm programs run for every process of the machine: the cheap questions come first.
 *
 * Each way around the enforcer (abi/guard.h) is closed by programs of one of the two kinds, so nothing is said twice.
 * src/kernel/guard.rs knows which programs close which way, and loads those that the kernel takes. Events go into the
 * engine's ring buffer.
 */
#include "guard/socket.h"
#include "guard/net.h"
#include "guard/agent.h"
#include "guard/files.h"
#include "guard/libraries.h"
#include "guard/lockdown.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";
