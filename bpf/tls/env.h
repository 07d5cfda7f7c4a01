/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is the TLS plane's own of the engine's surroundings. A hook can be interrupted by another on its CPU: nothing
 * that belongs to a CPU is its own, and the kernel's spin locks are refused.
 */
#ifndef PG_TLS_ENV_H
#define PG_TLS_ENV_H

#include "tls/buckets.h"

const volatile struct pg_tls_config tls_config = {};

/* ---- events, with the process in them; made in the ring buffer ---- */

/* by caller */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PG_MAX_STREAMS);
	__type(key, struct pg_tls_caller);
	__type(value, struct pg_tls_call);
} tls_calls SEC(".maps");

struct pt_regs___user {
	unsigned long r14;
} __attribute__((preserve_access_index));

/* The registers that a thread had when it came into the kernel, whatever for: Go keeps the goroutine in r14. */
static __always_inline u64 pg_goroutine_here(void)
{
	struct pt_regs___user *registers = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());

	return registers->r14;
}

/* The call that this thread is in. */
static __always_inline struct pg_tls_call *pg_call_here(void)
{
	u64 id = bpf_get_current_pid_tgid();
	struct pg_tls_caller caller = {.who = id, .process = id >> 32};
	struct pg_tls_call *call = bpf_map_lookup_elem(&tls_calls, &caller);

	if (call)
		return call;
	caller.who = pg_goroutine_here();
	caller.goroutine = 1;
	return bpf_map_lookup_elem(&tls_calls, &caller);
}

/* Its agent forgets sessions without asking what they have, so their streams are in the table. */
static __always_inline int pg_berth_take(u32 *berth)
{
	(void)berth;
	return 0;
}

static __always_inline void pg_berth_give(u32 berth)
{
	(void)berth;
}

static __always_inline struct pg_stream *pg_berth_get(u32 berth)
{
	(void)berth;
	return 0;
}

static __always_inline struct pg_event *pg_event_scratch(struct pg_work *w)
{
	struct pg_tls_event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	(void)w;
	if (!e) {
		pg_count_add(PG_N_EVENTS_LOST, 1);
		return 0;
	}
	return &e->about;
}

static __always_inline void pg_event_put(struct pg_event *about)
{
	struct pg_tls_event *e = (struct pg_tls_event *)about;
	u64 id = bpf_get_current_pid_tgid();
	struct pg_tls_call *call;

	e->process = id >> 32;
	e->thread = (u32)id;
	e->rung = tls_config.rung;
	call = pg_call_here();
	e->library = call ? call->library : 0xffffffff;
	e->object = call ? call->object : 0;
	__builtin_memset(e->name, 0, sizeof(e->name));
	bpf_get_current_comm(e->name, sizeof(e->name));
	bpf_ringbuf_submit(e, 0);
}

#endif
