/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Who is inside, what a way's switch says, and the event. */
#ifndef PG_GUARD_JUDGE_H
#define PG_GUARD_JUDGE_H

#include "guard/kernel.h"
#include "source/work.h"

const volatile struct pg_guard_config guard_config = {};

/* ---- the engine's, which the loader puts in the place of these two ---- */

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, PG_MAX_EVENT_BYTES);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, PG_COUNTERS);
	__type(key, u32);
	__type(value, u64);
} counters SEC(".maps");

/* ---- the guard's own ---- */

/* ids of the cgroups under guard; the agent adds and removes them */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PG_MAX_GUARD_PLACES);
	__type(key, u64);
	__type(value, u32);
} guard_places SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct pg_guard_agent);
} guard_agent SEC(".maps");

/* Files with TLS code. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PG_MAX_GUARD_LIBRARIES);
	__type(key, struct pg_guard_library);
	__type(value, u32);
} guard_libraries SEC(".maps");

/* ---- inside? ---- */

/* Is this cgroup one under guard, or below one? An address, since the verifier knows no pointer that was read. */
static __noinline int pg_cgroup_inside(u64 address)
{
	struct cgroup *cgroup = (void *)address, *ancestor;
	int level = BPF_CORE_READ(cgroup, level), i;
	u64 id;

	for (i = 0; i < PG_MAX_GUARD_DEPTH; i++) {
		if (i > level)
			break;
		ancestor = 0;
		/* the place of the array is relocated, the index is not */
		bpf_probe_read_kernel(&ancestor, sizeof(ancestor), (void *)&cgroup->ancestors[0] + i * 8);
		id = BPF_CORE_READ(ancestor, kn, id);
		if (bpf_map_lookup_elem(&guard_places, &id))
			return 1;
	}
	return 0;
}

static __always_inline int pg_task_inside(struct task_struct *task)
{
	return pg_cgroup_inside((u64)BPF_CORE_READ(task, cgroups, dfl_cgrp));
}

static __always_inline struct task_struct *pg_current(void)
{
	return (struct task_struct *)bpf_get_current_task();
}

/* Is the process that runs now one that is to be guarded against? */
static __always_inline int pg_inside(void)
{
	return pg_task_inside(pg_current());
}

static __always_inline struct pg_guard_agent *pg_agent(void)
{
	u32 zero = 0;

	return bpf_map_lookup_elem(&guard_agent, &zero);
}

static __always_inline int pg_is_agent(struct task_struct *task)
{
	u32 tgid = BPF_CORE_READ(task, tgid);
	struct pg_guard_agent *agent = pg_agent();

	return agent && tgid && agent->tgid == tgid;
}

/* Whether anything in this guard's map of files with TLS code is hooked. */
static __always_inline int pg_any_hooked(void)
{
	struct pg_guard_library any = {};

	return bpf_map_lookup_elem(&guard_libraries, &any) != 0;
}

static __always_inline struct pg_guard_library pg_library_key(struct inode *inode)
{
	struct pg_guard_library key = {};

	key.inode = BPF_CORE_READ(inode, i_ino);
	key.device = BPF_CORE_READ(inode, i_sb, s_dev);
	return key;
}

static __always_inline u32 pg_library(struct inode *inode)
{
	struct pg_guard_library key = pg_library_key(inode);
	u32 *state = bpf_map_lookup_elem(&guard_libraries, &key);

	return state ? *state : 0;
}

/* ---- names ---- */

#define PG_WORD 24

struct pg_word {
	char text[PG_WORD];
};

/* A name of the kernel's, as far as it is looked at. */
static __always_inline struct pg_word pg_word_at(const char *address)
{
	struct pg_word name = {};

	bpf_probe_read_kernel_str(name.text, sizeof(name.text), address);
	return name;
}

static __always_inline int pg_begins(const struct pg_word *name, const char *wanted, u32 length)
{
	u32 i;

	for (i = 0; i < length; i++)
		if (name->text[i] != wanted[i])
			return 0;
	return 1;
}
#define PG_BEGINS(name, wanted) pg_begins(name, wanted, sizeof(wanted) - 1)
#define PG_IS_NAMED(name, wanted) pg_begins(name, wanted, sizeof(wanted)) /* with its end */

/* ---- judgement ---- */

/* Says what was tried. */
static __noinline int pg_guard_say(u32 way, u32 verdict, u32 process, const struct pg_guard_what *what)
{
	struct pg_guard_event *e;
	u32 lost = PG_N_EVENTS_LOST;
	u64 *count;

	if (!what)
		return 0;
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		count = bpf_map_lookup_elem(&counters, &lost);
		if (count)
			*count += 1;
		return 0;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time_ns = bpf_ktime_get_ns();
	e->way = way;
	e->verdict = verdict;
	if (process) {
		struct task_struct *task = pg_current();

		e->cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
		e->pid = BPF_CORE_READ(task, tgid);
		e->uid = BPF_CORE_READ(task, cred, uid.val);
		BPF_CORE_READ_INTO(&e->name, task, comm);
	}
	e->what = *what;
	bpf_ringbuf_submit(e, 0);
	return 0;
}

static __always_inline u32 pg_switch_of(u32 way)
{
	return guard_config.way[pg_index(way, 32)];
}

/* Is it refused? With an event, where the switch does not allow it. */
static __always_inline int pg_refuse(u32 way, u32 process, const struct pg_guard_what *what)
{
	u32 it = pg_switch_of(way);

	if (it == PG_GUARD_ALLOW)
		return 0;
	pg_guard_say(way, it == PG_GUARD_DENY ? PG_V_DENY : PG_V_AUDIT_DENY, process, what);
	return it == PG_GUARD_DENY;
}

/* What an LSM program answers. */
#define PG_REFUSED(way, what) (pg_refuse(way, 1, what) ? -EPERM : 0)

static __always_inline int pg_port_in(const volatile u64 *ports, u32 port)
{
	return ports[pg_index(port >> 6, 1024)] >> (port & 63) & 1;
}

#endif
