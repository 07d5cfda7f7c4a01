/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Calls into a TLS library: whose they are, what they hand over, and how a denied one ends. */
#ifndef PG_TLS_CALL_H
#define PG_TLS_CALL_H

#include "tls/session.h"
#include <asm/ptrace.h>

#define PG_SIGKILL 9
#define PG_SIGSTOP 19
#define PG_MOST_BYTES 0x7fffffff /* of one call */

/* the cgroups under enforcement */
struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_ARRAY);
	__uint(max_entries, PG_MAX_TLS_PLACES);
	__type(key, u32);
	__type(value, u32);
} tls_places SEC(".maps");

/* by library: 1 once all of its hooks are there */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PG_MAX_TLS_LIBRARIES);
	__type(key, u32);
	__type(value, u32);
} tls_armed SEC(".maps");

/* by thread; the agent ends them */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PG_MAX_STREAMS);
	__type(key, u32);
	__type(value, struct pg_tls_hold);
} tls_holds SEC(".maps");

/* What a hook is attached with: the library, and how far it is from the function to one that only fails: it returns 0,
 * and says in the library's own way that this is an error. */
#define PG_COOKIE_LIBRARY(cookie) ((u32)(cookie) & (PG_MAX_TLS_LIBRARIES - 1))
#define PG_COOKIE_FAILURE(cookie) ((s64)(cookie) >> 16)

/* Other processes share the library's file: whoever is not in one of the cgroups leaves here. */
static __always_inline int pg_tls_inside(void)
{
	u32 i;

	for (i = 0; i < PG_MAX_TLS_PLACES; i++) {
		if (i >= tls_config.places)
			break;
		if (bpf_current_task_under_cgroup(&tls_places, i) == 1)
			return 1;
	}
	return 0;
}

/* A library whose hooks are all there: one that is hooked in part is none. */
static __always_inline int pg_tls_armed(u32 library)
{
	u32 *armed = bpf_map_lookup_elem(&tls_armed, &library);

	return armed && *armed;
}

static __always_inline struct pg_session *pg_session_of(u64 object)
{
	struct pg_tls_key key = {.object = object, .process = bpf_get_current_pid_tgid() >> 32};

	return bpf_map_lookup_elem(&tls_sessions, &key);
}

static __always_inline int pg_session_over(const struct pg_session *s)
{
	u64 cookie = s->cookie;
	struct pg_conn *c;

	if (s->dead)
		return 1;
	c = bpf_map_lookup_elem(&conns, &cookie);
	return c && c->phase == PG_P_DEAD;
}

/*
 * The call fails as it returns, or at its entry: there it becomes a call of `failure`, whose second argument must not
 * be null. The thread does not run on in the process before that.
 */
static __always_inline void pg_call_fail(struct pt_regs *ctx, const struct pg_tls_call *call, u64 cookie, u64 failure)
{
	u64 id = bpf_get_current_pid_tgid();
	struct pg_tls_hold hold = {.cookie = cookie, .stack = call->stack, .failure = failure};
	u32 thread = (u32)id;

	hold.result = call->count_at ? 0 : -1ull; /* what the two kinds of calls return for a failure */
	hold.process = id >> 32;
	hold.thread = thread;
	if (tls_config.rung == PG_RUNG_CONTEXT) {
		if (failure) {
			ctx->rsi = 0;
			ctx->rip = failure;
		} else {
			ctx->rax = hold.result;
		}
		return;
	}
	if (tls_config.rung == PG_RUNG_PAUSE && !bpf_map_update_elem(&tls_holds, &thread, &hold, BPF_ANY) &&
	    !bpf_send_signal(PG_SIGSTOP))
		return;
	bpf_send_signal(PG_SIGKILL);
}

/* ---- entries ---- */

/*
 * A call begins. Returns 0 if it is of no concern: not of the cgroup, or seen before. One file can be reached by two
 * names (layers of containers), and is then hooked twice.
 */
static __always_inline int pg_call_begin(struct pt_regs *ctx, struct pg_tls_call *call)
{
	u64 id = bpf_get_current_pid_tgid();
	struct pg_tls_call *before;
	struct pg_session *s;

	if (!pg_tls_inside() || !pg_tls_armed(call->library))
		return 0;
	call->stack = ctx->rsp;
	before = bpf_map_lookup_elem(&tls_calls, &id);
	if (before && before->library != call->library && before->stack == call->stack &&
	    before->object == call->object && before->kind == call->kind)
		return 0;
	if (!bpf_map_update_elem(&tls_calls, &id, call, BPF_ANY))
		return 1;
	/* its return would not be seen */
	s = pg_session_of(call->object);
	if (s)
		pg_session_fail(s, PG_R_TLS_CALL);
	return 0;
}

/* The plaintext of a call, of either direction. Returns 0 if it is denied. */
static __always_inline int pg_call_plain(struct pg_session *s, u64 user, u32 length, u32 judged)
{
	int pass = 1;

	if (!length)
		return 1;
	if (!pg_lock(&s->lock)) {
		/* libraries allow one call on an object at a time */
		pg_session_fail(s, PG_R_TLS_CALL);
		return s->blind;
	}
	if (judged)
		pass = pg_plain_judge(s, user, length);
	else
		pg_plain_follow(s, user, length);
	pg_unlock(&s->lock);
	return pass;
}

/* A call that reads begins. */
static __always_inline int pg_read_begin(struct pt_regs *ctx, u32 kind, u64 count_at)
{
	struct pg_tls_call call = {.object = ctx->rdi, .buffer = ctx->rsi, .count_at = count_at, .kind = kind};
	struct pg_session *s;

	call.library = PG_COOKIE_LIBRARY(bpf_get_attach_cookie(ctx));
	if (!pg_call_begin(ctx, &call))
		return 0;
	s = pg_session_of(call.object);
	if (!s)
		return 0;
	if (s->reading)
		pg_session_fail(s, PG_R_TLS_CALL);
	s->reading = 1;
	return 0;
}

/* A call that writes begins: what it is to write has not been encrypted yet. */
static __always_inline int pg_write_begin(struct pt_regs *ctx, u64 length, u64 count_at)
{
	struct pg_tls_call call = {.object = ctx->rdi, .buffer = ctx->rsi, .count_at = count_at, .kind = PG_CALL_WRITE};
	u64 cookie = bpf_get_attach_cookie(ctx);
	struct pg_session *s;
	u32 n, skip;
	int pass;

	call.library = PG_COOKIE_LIBRARY(cookie);
	if (!pg_call_begin(ctx, &call))
		return 0;
	s = pg_session_of(call.object);
	if (!s || s->blind)
		return 0;
	if (s->writing || length > PG_MOST_BYTES)
		pg_session_fail(s, PG_R_TLS_CALL);
	s->writing = 1;
	n = length;
	skip = s->ahead_out;
	pass = !pg_session_over(s);
	if (pass && n > skip) {
		pass = pg_call_plain(s, call.buffer + skip, n - skip, !tls_config.server);
		s->ahead_out = n;
	}
	if (!pass && !s->blind)
		pg_call_fail(ctx, &call, s->cookie, ctx->rip + PG_COOKIE_FAILURE(cookie));
	return 0;
}

/* ---- returns ---- */

/* How many bytes the call has handed over. */
static __always_inline u32 pg_call_count(struct pt_regs *ctx, const struct pg_tls_call *call)
{
	u64 n = 0;

	if (!call->count_at)
		return (s32)ctx->rax > 0 ? (u32)ctx->rax : 0;
	if ((s32)ctx->rax <= 0)
		return 0;
	if (bpf_probe_read_user(&n, sizeof(n), (void *)call->count_at) || n > PG_MOST_BYTES)
		return PG_MOST_BYTES;
	return n;
}

static __always_inline void pg_read_end(struct pt_regs *ctx, const struct pg_tls_call *call, struct pg_session *s)
{
	u32 n = pg_call_count(ctx, call), skip = s->ahead_in;
	int pass;

	s->reading = 0;
	if (!n || s->blind)
		return;
	pass = !pg_session_over(s);
	if (pass && n > skip)
		pass = pg_call_plain(s, call->buffer + skip, n - skip, tls_config.server);
	if (call->kind == PG_CALL_PEEK)
		s->ahead_in = n > skip ? n : skip;
	else
		s->ahead_in = skip > n ? skip - n : 0;
	if (!pass && !s->blind)
		pg_call_fail(ctx, call, s->cookie, 0);
}

static __always_inline void pg_write_end(struct pt_regs *ctx, const struct pg_tls_call *call, struct pg_session *s)
{
	u32 n = pg_call_count(ctx, call);

	s->writing = 0;
	if (s->blind)
		return;
	if (n > s->ahead_out)
		pg_session_fail(s, PG_R_TLS_CALL);
	else
		s->ahead_out -= n;
}

static __always_inline int pg_call_end(struct pt_regs *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	struct pg_tls_call *found, call;
	struct pg_session *s;

	found = bpf_map_lookup_elem(&tls_calls, &id);
	if (!found)
		return 0;
	call = *found;
	s = pg_session_of(call.object);
	if (s && (call.kind == PG_CALL_READ || call.kind == PG_CALL_PEEK))
		pg_read_end(ctx, &call, s);
	else if (s && call.kind == PG_CALL_WRITE)
		pg_write_end(ctx, &call, s);
	bpf_map_delete_elem(&tls_calls, &id);
	return 0;
}

#endif
