// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Architecture:
 *
 *   pt_enter      a call into a TLS library begins ──► whose it is; what is written is judged
 *   pt_return     it returns                       ──► what was read is judged
 *   pt_exec, pt_loaded   a process has new code    ──► it may have a TLS library, says the agent
 *   pt_received   a thread reads a TCP socket      ──► which socket a call is about
 *
 * tls/call.h knows calls, tls/session.h what belongs together; the engine is the one that judges packets. The functions
 * and their arguments are OpenSSL's, GnuTLS's and Go's; src/kernel/tls attaches them.
 */
#define PG_PLANE_TLS
#include "tls/call.h"
#include <bpf/bpf_tracing.h>

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} tls_nowhere SEC(".maps");

/*
 * From Linux 6.13 on a program in place of a probe may get a stack of its own, one a processor (verifier.c,
 * bpf_enable_priv_stack()). Programs in uprobes can be preempted, and another thread's would then run on the same one:
 * the first goes on with wrong pointers, and the kernel falls. A program in which a tail call stands gets none.
 */
static __always_inline void pg_stack_of_task(struct pt_regs *ctx)
{
	if (tls_config.reserved)
		bpf_tail_call(ctx, &tls_nowhere, 0);
}

/* It fails by itself, and has been made to perhaps: it begins again then, and is not to be held again. (Asked again
 * each time: 6.1 has no stack for the answer.) */
static __always_inline int pg_call_vain(const struct pt_regs *ctx, u32 function)
{
	return function == PG_FN_WRITE && (s32)ctx->rdx < 0;
}

/* OpenSSL's and GnuTLS's arguments are those of C, Go's those of its own (internal ABI): there the receiver is the
 * first. */
SEC("uprobe") int pt_enter(struct pt_regs *ctx)
{
	u64 cookie = bpf_get_attach_cookie(ctx), length = 0, fails = 0;
	u32 function = pg_cookie_function(cookie);
	struct pg_tls_call call = {.object = ctx->rdi, .buffer = ctx->rsi, .function = function};

	pg_stack_of_task(ctx);
	call.library = pg_cookie_library(cookie);
	switch (function) {
	case PG_FN_READ_EX:
		call.count_at = ctx->rcx;
		/* fallthrough */
	case PG_FN_READ:
		call.kind = PG_CALL_READ;
		break;
	case PG_FN_PEEK_EX:
		call.count_at = ctx->rcx;
		/* fallthrough */
	case PG_FN_PEEK:
		call.kind = PG_CALL_PEEK;
		break;
	case PG_FN_WRITE:
		call.kind = PG_CALL_WRITE;
		length = (s32)ctx->rdx > 0 ? (u32)ctx->rdx : 0;
		break;
	case PG_FN_WRITE_EX:
		call.kind = PG_CALL_WRITE;
		call.count_at = ctx->rcx;
		length = ctx->rdx;
		break;
	case PG_FN_WRITE_EX2:
		call.kind = PG_CALL_WRITE;
		call.count_at = ctx->r8;
		length = ctx->rdx;
		break;
	case PG_FN_RECV:
		call.kind = PG_CALL_READ;
		break;
	case PG_FN_SEND:
	case PG_FN_SEND2:
		call.kind = PG_CALL_WRITE;
		length = ctx->rdx;
		break;
	case PG_FN_UNCORK:
		call.kind = PG_CALL_WRITE;
		break;
	case PG_FN_GO_READ:
		call.kind = PG_CALL_READ;
		call.goroutine = 1;
		break;
	case PG_FN_GO_WRITE:
		call.kind = PG_CALL_WRITE;
		call.goroutine = 1;
		length = ctx->rcx;
		break;
	case PG_FN_GO_SHAKE:
		call.goroutine = 1;
		/* fallthrough */
	default:
		call.kind = PG_CALL_SHAKE;
	}
	if (call.goroutine) {
		call.object = ctx->rax;
		call.buffer = ctx->rbx;
	}
	if (pg_call_begin(ctx, &call, &fails)) {
		if (call.kind == PG_CALL_READ || call.kind == PG_CALL_PEEK)
			pg_read_begin(&call);
		else if (call.kind == PG_CALL_WRITE && !pg_call_vain(ctx, function))
			fails = pg_write_begin(&call, length);
		if (fails && call.goroutine)
			pg_call_skipped(ctx);
	}
	if (fails && !pg_call_vain(ctx, call.function))
		pg_call_fail(ctx, &call, fails, 1, ctx->rip + pg_cookie_failure(cookie));
	return 0;
}

/* At a return: in Go at the very instruction, which tells the function; else where the kernel catches it. */
SEC("uretprobe") int pt_return(struct pt_regs *ctx)
{
	u32 function = pg_cookie_function(bpf_get_attach_cookie(ctx));
	struct pg_tls_call *found, call;
	struct pg_tls_caller caller = {};
	struct pg_session *s;

	pg_stack_of_task(ctx);
	pg_caller_of(ctx, function >= PG_FN_GO_SHAKE, &caller);
	found = bpf_map_lookup_elem(&tls_calls, &caller);
	/* else it is a part of one, or was made within one */
	if (!found || found->function != function)
		return 0;
	call = *found;
	s = pg_session_of(call.object);
	if (!s)
		pg_stranger_end(ctx, &call);
	else if (call.kind == PG_CALL_READ || call.kind == PG_CALL_PEEK)
		pg_read_end(ctx, &call, s);
	else if (call.kind == PG_CALL_WRITE)
		pg_write_end(ctx, &call, s);
	bpf_map_delete_elem(&tls_calls, &caller);
	return 0;
}

/* Early data, packets and sendfile carry plaintext past the calls that are judged. */
SEC("uprobe") int pt_other(struct pt_regs *ctx)
{
	u64 cookie = bpf_get_attach_cookie(ctx);
	struct pg_tls_call call = {.object = ctx->rdi, .kind = PG_CALL_OTHER, .stack = ctx->rsp};
	struct pg_session *s;

	pg_stack_of_task(ctx);
	call.library = pg_cookie_library(cookie);
	if (!pg_tls_inside() || !pg_tls_armed(call.library))
		return 0;
	if (pg_cookie_function(cookie) == PG_FN_PACKET && !ctx->rsi)
		return 0; /* so it only fails, and stands for another call that does */
	s = pg_session_of(call.object);
	if (!s || s->blind)
		return 0;
	pg_session_fail(s, PG_R_TLS_CALL);
	if (!s->blind)
		pg_call_fail(ctx, &call, s->cookie, 1, ctx->rip + pg_cookie_failure(cookie));
	return 0;
}

/* TLS as a BIO, which reads and writes by functions that have no names. */
SEC("uprobe") int pt_bio(struct pt_regs *ctx)
{
	pg_stack_of_task(ctx);
	if (pg_tls_inside() && pg_tls_armed(pg_cookie_library(bpf_get_attach_cookie(ctx))))
		pg_process_unread();
	return 0;
}

/* The object ends, or begins anew; or a new one is returned, perhaps where another was. */
SEC("uprobe") int pt_forget(struct pt_regs *ctx)
{
	struct pg_tls_key key = {.process = bpf_get_current_pid_tgid() >> 32};
	u64 given = ctx->rdi, returned = ctx->rax;

	/* two loads: the verifier refuses one from either place */
	barrier_var(given);
	barrier_var(returned);
	key.object = pg_cookie_function(bpf_get_attach_cookie(ctx)) == PG_FN_NEW ? returned : given;
	pg_stack_of_task(ctx);
	if (pg_tls_inside())
		pg_session_forget(&key);
	return 0;
}

/* ---- code that is new to a process ---- */

static __always_inline void pg_process_new(void)
{
	if (pg_tls_inside())
		pg_tls_tell(0);
}

/* A program begins. */
SEC("tp_btf/sched_process_exec") int BPF_PROG(pt_exec)
{
	pg_process_new();
	return 0;
}

/* The dynamic linker has loaded something, be it at the start or later, and calls what it has for debuggers. */
SEC("uprobe") int pt_loaded(struct pt_regs *ctx)
{
	pg_stack_of_task(ctx);
	pg_process_new();
	return 0;
}

/* ---- which socket ---- */

struct sock;

/* The connection is read by something else than the calls that judge it. */
static __always_inline void pg_read_elsewhere(struct pg_conn *c)
{
	struct pg_tls_key key = {.object = c->tls_object, .process = c->tls_process};
	struct pg_session *s = bpf_map_lookup_elem(&tls_sessions, &key);

	if (c->phase == PG_P_DEAD)
		return;
	if (s && s->cookie == c->cookie)
		pg_session_fail(s, PG_R_TLS_ELSEWHERE);
	else
		c->phase = PG_P_DEAD; /* the agent's sweep finds it */
}

/*
 * A call reads a socket that is none of a judged connection: its object is not about the old one any more. C's objects
 * begin anew by a function that is hooked; Go's go with its collector, and another may be made where one was.
 */
static __always_inline void pg_read_another(u64 cookie)
{
	struct pg_tls_key key = {.process = bpf_get_current_pid_tgid() >> 32};
	struct pg_tls_call *call = pg_call_here();
	struct pg_session *s;
	u64 *over, before;

	if (!call || !call->goroutine)
		return;
	key.object = call->object;
	s = bpf_map_lookup_elem(&tls_sessions, &key);
	over = bpf_map_lookup_elem(&tls_over, &key);
	before = s ? s->cookie : over ? *over : cookie;
	if (before != cookie && !bpf_map_lookup_elem(&conns, &before))
		pg_session_forget(&key);
}

/* A thread has taken bytes out of a TCP socket's queue. */
SEC("tp_btf/tcp_rcv_space_adjust") int BPF_PROG(pt_received, struct sock *sk)
{
	u64 id = bpf_get_current_pid_tgid(), cookie = pg_socket_cookie(sk), other;
	struct pg_tls_key key = {.process = id >> 32};
	struct pg_tls_call *call;
	struct pg_session *s;
	struct pg_conn *c;

	c = cookie ? bpf_map_lookup_elem(&conns, &cookie) : 0; /* without one it is no connection that is judged */
	if (!c || c->cookie != cookie || (c->request.state != PG_H2_TLS && !c->tls)) {
		pg_read_another(cookie);
		return 0;
	}
	if (c->tls == PG_TLS_FED)
		return 0;
	call = pg_call_here();
	if (!call) {
		if (c->tls)
			pg_read_elsewhere(c);
		return 0;
	}
	key.object = call->object;
	s = bpf_map_lookup_elem(&tls_sessions, &key);
	if (s && s->cookie == cookie)
		return 0;
	if (s) {
		/* the object has changed sockets: that is a new beginning only if the old connection is over */
		other = s->cookie;
		if (bpf_map_lookup_elem(&conns, &other)) {
			pg_session_fail(s, PG_R_TLS_ELSEWHERE);
			return 0;
		}
		pg_session_forget(&key);
	}
	if (c->tls)
		pg_read_elsewhere(c);
	else if (!call->mixed && (call->kind != PG_CALL_WRITE || tls_config.server))
		pg_session_open(&key, c, cookie, PG_TLS_READS);
	/* else: a handshake within a call that writes, whose plaintext was handed over before there was a session */
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
