// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Architecture:
 *
 *   gc_*   programs on the cgroup: sockets that were made inside ──► guard/socket.h
 *   gl_*   lsm programs: what processes inside do                ──► guard/lsm.h
 *
 * Each way around the enforcer (abi/guard.h) is closed by programs of one of the two kinds, so nothing is said twice.
 * src/kernel/guard.rs knows which programs close which way, and loads those that the kernel takes. Events go into the
 * engine's ring buffer.
 */
#include "guard/socket.h"
#include "guard/lsm.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";
