/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Calls into a TLS library: whose they are, what they hand over, and how a denied one ends. */
#ifndef PG_TLS_CALL_H
#define PG_TLS_CALL_H

#include "tls/session.h"
#include <asm/ptrace.h>

#define PG_SIGKILL 9
#define PG_SIGSTOP 19
#define PG_MOST_BYTES 0x7fffffff /* of one call */
#define PG_PULL_ERROR (-54ull)	 /* GnuTLS: the socket cannot be read */

/* the cgroups under enforcement */
struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_ARRAY);
	__uint(max_entries, PG_MAX_TLS_PLACES);
	__type(key, u32);
	__type(value, u32);
} tls_places SEC(".maps");

/* by number; one that is hooked in part is none */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PG_MAX_TLS_LIBRARIES);
	__type(key, u32);
	__type(value, struct pg_tls_library);
} tls_libraries SEC(".maps");

/* by thread; the agent ends them */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PG_MAX_STREAMS);
	__type(key, u32);
	__type(value, struct pg_tls_hold);
} tls_holds SEC(".maps");

static __always_inline u32 pg_cookie_library(u64 cookie)
{
	return cookie & (PG_MAX_TLS_LIBRARIES - 1);
}

static __always_inline u32 pg_cookie_function(u64 cookie)
{
	return cookie >> PG_COOKIE_FUNCTION & ((1 << (PG_COOKIE_FAILURE - PG_COOKIE_FUNCTION)) - 1);
}

static __always_inline s64 pg_cookie_failure(u64 cookie)
{
	return (s64)cookie >> PG_COOKIE_FAILURE;
}

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

static __always_inline const struct pg_tls_library *pg_tls_armed(u32 library)
{
	const struct pg_tls_library *l = bpf_map_lookup_elem(&tls_libraries, &library);

	return l && l->armed ? l : 0;
}

static __always_inline u32 pg_random_at(u32 library)
{
	const struct pg_tls_library *l = bpf_map_lookup_elem(&tls_libraries, &library);

	return l ? l->random_at : 0;
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

/* The thread's registers, for a call that is to fail. */
static __always_inline void pg_call_change(struct pt_regs *ctx, const struct pg_tls_hold *hold)
{
	u64 back;

	switch (hold->failing) {
	case PG_FAIL_CALL:
		ctx->rsi = 0;
		ctx->rip = hold->failure;
		return;
	case PG_FAIL_LENGTH:
		ctx->rdx = -1ull;
		return;
	case PG_FAIL_GO_SKIP:
		if (bpf_probe_read_user(&back, sizeof(back), (void *)ctx->rsp)) {
			bpf_send_signal(PG_SIGKILL);
			return;
		}
		ctx->rip = back;
		ctx->rsp = ctx->rsp + sizeof(back);
		/* fallthrough */
	case PG_FAIL_GO_OVER:
		ctx->rbx = 0;
		ctx->rcx = 0;
		/* fallthrough */
	default:
		ctx->rax = hold->result;
	}
}

/* Tells the agent, which looks at all processes and threads that are held now and then, too: nothing is lost but time.
 */
static __noinline int pg_tls_tell(u32 held)
{
	struct pg_tls_new *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e)
		return 0;
	__builtin_memset(e, 0, sizeof(*e));
	e->process = bpf_get_current_pid_tgid() >> 32;
	e->held = held;
	bpf_ringbuf_submit(e, 0);
	return 0;
}

/* What a call returns that has failed. */
static __always_inline u64 pg_call_failed(const struct pg_tls_call *call)
{
	if (call->function == PG_FN_RECV)
		return PG_PULL_ERROR;
	return call->count_at ? 0 : -1ull; /* OpenSSL's two kinds */
}

/*
 * The call fails as it returns, or (`begins`) at its entry: there it becomes a call of `failure`, or in Go returns. The
 * thread does not run on in the process before that.
 */
static __always_inline void pg_call_fail(struct pt_regs *ctx, const struct pg_tls_call *call, u64 cookie, u32 begins,
					 u64 failure)
{
	u64 id = bpf_get_current_pid_tgid();
	struct pg_tls_hold hold = {.cookie = cookie, .stack = call->stack, .failure = failure};
	u32 thread = (u32)id;

	if (call->goroutine) {
		hold.failing = begins ? PG_FAIL_GO_SKIP : PG_FAIL_GO_OVER;
	} else {
		hold.failing = PG_FAIL_OVER;
		if (begins)
			hold.failing =
				failure == ctx->rip && call->function == PG_FN_WRITE ? PG_FAIL_LENGTH : PG_FAIL_CALL;
		hold.result = pg_call_failed(call);
	}
	hold.ip = ctx->rip;
	hold.sp = ctx->rsp;
	hold.process = id >> 32;
	hold.thread = thread;
	if (tls_config.rung == PG_RUNG_CONTEXT) {
		pg_call_change(ctx, &hold);
		return;
	}
	if (tls_config.rung == PG_RUNG_PAUSE && !bpf_map_update_elem(&tls_holds, &thread, &hold, BPF_ANY) &&
	    !bpf_send_signal_thread(PG_SIGSTOP)) { /* before signals of the whole process, and most of its own */
		/* the denial's event came before the hold was there, and a call on what is dead has none */
		pg_tls_tell(1);
		return;
	}
	bpf_send_signal(PG_SIGKILL);
}

static __always_inline void pg_call_join(const struct pg_tls_call *call)
{
	struct pg_tls_key key = {.object = call->object, .process = bpf_get_current_pid_tgid() >> 32};

	pg_session_join(&key, pg_random_at(call->library));
}

/* ---- entries ---- */

static __always_inline void pg_caller_of(struct pt_regs *ctx, u32 goroutine, struct pg_tls_caller *caller)
{
	u64 id = bpf_get_current_pid_tgid();

	caller->who = goroutine ? ctx->r14 : id;
	caller->process = id >> 32;
	caller->goroutine = goroutine;
}

/*
 * Whether a call on the same object is what another is doing: its `_ex` form calls it, or the call makes the handshake
 * or, in BoringSSL, peeks at what it then takes. The outer one's return tells all. One file can be hooked under two
 * names: below an overlay.
 */
static __always_inline int pg_call_within(const struct pg_tls_call *outer, const struct pg_tls_call *call)
{
	if (call->kind == PG_CALL_SHAKE)
		return 1;
	if (outer->function == call->function)
		return outer->library != call->library && outer->stack == call->stack;
	if (call->stack > outer->stack || call->goroutine)
		return 0;
	return outer->kind == call->kind || (outer->kind == PG_CALL_READ && call->kind == PG_CALL_PEEK);
}

/*
 * A call within another, by a callback perhaps, or after one whose return was not seen. Calls are known by their
 * thread: the outer one's return is to be seen, so this one fails if it is about a judged connection, and is not
 * followed.
 */
static __always_inline u64 pg_call_mixed(struct pg_tls_call *outer, const struct pg_tls_call *call)
{
	struct pg_session *s = pg_session_of(call->object);

	outer->mixed = 1;
	if (!s || s->blind)
		return 0;
	pg_session_fail(s, PG_R_TLS_CALL);
	return s->blind ? 0 : s->cookie;
}

/*
 * A call begins. Returns 0 if it is of no concern: not of the cgroup, part of another, or one that fails here: then
 * `fails` is its connection.
 */
static __always_inline int pg_call_begin(struct pt_regs *ctx, struct pg_tls_call *call, u64 *fails)
{
	struct pg_tls_caller caller = {};
	struct pg_tls_call *before;
	struct pg_session *s;

	if (!pg_tls_inside() || !pg_tls_armed(call->library))
		return 0;
	call->stack = ctx->rsp;
	pg_caller_of(ctx, call->goroutine, &caller);
	before = bpf_map_lookup_elem(&tls_calls, &caller);
	if (before && before->object == call->object && pg_call_within(before, call))
		return 0;
	if (before && before->kind != PG_CALL_SHAKE &&
	    (before->object != call->object || before->function != call->function)) {
		*fails = pg_call_mixed(before, call);
		return 0;
	}
	if (!bpf_map_update_elem(&tls_calls, &caller, call, BPF_ANY))
		return 1;
	/* its return would not be seen */
	s = pg_session_of(call->object);
	if (s)
		pg_session_fail(s, PG_R_TLS_CALL);
	return 0;
}

/* A call of Go's that fails as it begins comes by none of its returns. */
static __always_inline void pg_call_skipped(struct pt_regs *ctx)
{
	struct pg_tls_caller caller = {};

	pg_caller_of(ctx, 1, &caller);
	bpf_map_delete_elem(&tls_calls, &caller);
}

/* The plaintext of a call: the client's, or the server's answer. Returns 0 if it is denied. */
static __always_inline int pg_call_plain(struct pg_session *s, u64 user, u32 length, u32 answer)
{
	u32 *lock = answer ? &s->conn.response_lock : &s->conn.lock;
	int pass;

	if (!length)
		return 1;
	if (!pg_lock(lock)) {
		pg_session_fail(s, PG_R_TLS_CALL);
		return s->blind;
	}
	pass = answer ? pg_plain_response(s, user, length) : pg_plain_request(s, user, length);
	pg_unlock(lock);
	return pass;
}

/* Two calls at once that hand over bytes of one direction: nobody knows which of them are first. */
static __always_inline void pg_call_unordered(struct pg_session *s, u32 answer)
{
	if (!answer || config.responses)
		pg_session_fail(s, PG_R_TLS_CALL);
	else
		s->conn.answers = PG_A_UNREAD;
}

/* A call that reads has begun. */
static __always_inline void pg_read_begin(const struct pg_tls_call *call)
{
	struct pg_session *s = pg_session_of(call->object);

	if (!s)
		return;
	if (s->reading)
		pg_call_unordered(s, !tls_config.server);
	s->reading = 1;
}

/* A call that writes has begun: what it is to write has not been encrypted yet. Returns the connection if it is denied.
 */
static __always_inline u64 pg_write_begin(const struct pg_tls_call *call, u64 length)
{
	struct pg_session *s = pg_session_of(call->object);
	u32 n, skip;
	int pass;

	if (!s && !tls_config.server) {
		pg_call_join(call);
		s = pg_session_of(call->object);
	}
	if (!s || s->blind)
		return 0;
	if (s->writing)
		pg_call_unordered(s, tls_config.server);
	if (length > PG_MOST_BYTES)
		pg_session_fail(s, PG_R_TLS_CALL);
	s->writing = 1;
	n = length;
	skip = s->ahead_out;
	pass = !pg_session_over(s);
	if (pass && n > skip) {
		pass = pg_call_plain(s, call->buffer + skip, n - skip, tls_config.server);
		s->ahead_out = n;
	}
	return pass || s->blind ? 0 : s->cookie;
}

/* ---- returns ---- */

/* How many bytes the call has handed over. */
static __always_inline u32 pg_call_count(struct pt_regs *ctx, const struct pg_tls_call *call)
{
	u64 n = 0;

	if (call->function == PG_FN_UNCORK)
		return 0; /* they were counted when they were given */
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
		pass = pg_call_plain(s, call->buffer + skip, n - skip, !tls_config.server);
	if (call->kind == PG_CALL_PEEK)
		s->ahead_in = n > skip ? n : skip;
	else
		s->ahead_in = skip > n ? skip - n : 0;
	if (!pass && !s->blind)
		pg_call_fail(ctx, call, s->cookie, 0, 0);
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
		/* OpenSSL is given the rest again; Go's connection is over if there is one */
		s->ahead_out = call->goroutine ? 0 : s->ahead_out - n;
}

/* A call that reads, on an object without a session, returns. Returns the connection that it must not have read from.
 */
static __always_inline u64 pg_stranger_read(const struct pg_tls_key *key, u32 library)
{
	u64 *over = bpf_map_lookup_elem(&tls_over, key);

	return over ? *over : pg_session_copied(key, pg_random_at(library));
}

/* A call on an object without a session returns. (A function: 6.1 has not the stack for it beside the engine's.) */
static __noinline int pg_stranger_end(struct pt_regs *ctx, const struct pg_tls_call *call)
{
	struct pg_tls_key key = {.object = call->object, .process = bpf_get_current_pid_tgid() >> 32};
	u32 reads = call->kind == PG_CALL_READ || call->kind == PG_CALL_PEEK;
	u64 cookie;

	if (reads && pg_call_count(ctx, call)) {
		cookie = config.audit ? 0 : pg_stranger_read(&key, call->library);
		if (cookie)
			pg_call_fail(ctx, call, cookie, 0, 0);
		return 0;
	}
	if (call->kind == PG_CALL_WRITE && (!tls_config.server || config.responses) && pg_call_count(ctx, call))
		pg_hello_spoil(&key, pg_random_at(call->library));
	else
		pg_call_join(call);
	return 0;
}

#endif
