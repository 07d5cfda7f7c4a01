/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A TLS connection as its process has it: which socket it is, and the engine over its plaintext.
 *
 * The socket is found, not asked for: a library reads the socket while one of its hooked calls runs, and the kernel
 * says which socket a thread reads. So any kind of BIO will do that reads the socket itself; one that does not is found
 * by the random number that its client's handshake begins with. A session is only ever
 * made while the socket's handshake has carried no application data, so it has the plaintext from its first byte on.
 */
#ifndef PG_TLS_SESSION_H
#define PG_TLS_SESSION_H

#include "pipeline.h"

#define PG_INIT 1	/* the machine's first process, which the kernel lets nobody stop or kill */
#define PG_TURNS 400000 /* as for a segment: run.h */

struct pg_session {
	u64 cookie;
	u32 dead;
	u32 blind;     /* a switch of the policy lets it pass unread */
	u32 reading;   /* 1: a call that reads has not returned */
	u32 writing;   /* 1: a call that writes has not returned */
	u32 ahead_in;  /* bytes that were peeked at: they are judged, and will be read again */
	u32 ahead_out; /* bytes that are judged, and that the library has not taken yet: they will be written again */
	struct pg_conn conn; /* the plaintext's; apart from that of the bytes on the wire */
	struct pg_work work;
	struct pg_work other; /* of the server's side: Go reads and writes at once */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PG_MAX_TLS_SESSIONS);
	__type(key, struct pg_tls_key);
	__type(value, struct pg_session);
} tls_sessions SEC(".maps");

/* Objects whose connection is gone, by its cookie: what they have of its bytes still is handed to nobody. The agent
 * puts them here, and forgets those of processes that have ended. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PG_MAX_TLS_OVER);
	__type(key, struct pg_tls_key);
	__type(value, u64);
} tls_over SEC(".maps");

/* Processes that use TLS as a BIO (BIO_f_ssl): what they read and write so passes no hooked call. The agent forgets
 * those that have ended. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, PG_MAX_TLS_SESSIONS);
	__type(key, u32);
	__type(value, u32);
} tls_unread SEC(".maps");

SCRATCH(blank_session, struct pg_session, BPF_MAP_TYPE_ARRAY); /* all zeros */

/* ---- the engine over plaintext ---- */

struct pg_plain {
	struct pg_conn *c;
	struct pg_work *w;
	u64 user;   /* where the process has it */
	u32 answer; /* 1: it is the server's */
	u32 judged; /* 1: and what cannot be decided is denied; 0: it is followed, for what it says about streams */
	int outcome;
	int done;
};

PG_STEP int pg_plain_load(struct pg_work *w, u64 user)
{
	u32 n;

	if (!w)
		return 0;
	n = pg_window_next(w);
	if (!n)
		return 0;
	n = pg_length(n, PG_WINDOW);
	if (bpf_probe_read_user(w->window, n, (void *)(user + w->pos)))
		return 0;
	w->window_at = w->pos;
	w->window_size = n;
	return 1;
}

static long pg_plain_cb(u32 index, void *data)
{
	struct pg_plain *p = data;
	struct pg_work *w = p->w;
	struct pg_conn *c = p->c;

	(void)index;
	if (!w || !c)
		return 1;
	if (w->pos >= w->end) {
		p->done = 1;
		return 1;
	}
	if (!(p->answer && pg_response_skips(c)) && !pg_ready(w) && !pg_plain_load(w, p->user))
		p->outcome = p->judged ? pg_fail_connection(c, w, PG_R_TLS_UNREADABLE) : PG_CUT;
	else
		p->outcome = p->answer ? pg_response_step(c, w) : pg_request_step(c, w);
	return p->outcome != PG_GO;
}

static __always_inline void pg_plain_chunk(struct pg_work *w, u32 length)
{
	w->source = PG_SRC_PACKET;
	w->base = 0;
	w->end = length;
	w->pos = 0;
	w->window_at = 0;
	w->window_size = 0;
	w->ended = 0;
	w->mends = 0;
	w->frame_at = PG_NO_FRAME;
	w->path_at = PG_NO_FRAME;
}

static __always_inline void pg_session_die(struct pg_session *s)
{
	u64 cookie = s->cookie;
	struct pg_conn *c;

	s->dead = 1;
	s->conn.phase = PG_P_DEAD;
	c = bpf_map_lookup_elem(&conns, &cookie);
	if (c && c->cookie == cookie)
		c->phase = PG_P_DEAD; /* nothing more of the wire passes either */
}

/* The run over plaintext has come to more than PG_GO. Returns 0 if the plaintext is denied. */
static __always_inline int pg_session_conclude(struct pg_session *s, struct pg_work *w, int outcome)
{
	pg_session_die(s);
	if (outcome == PG_DENIED) {
		pg_emit(&s->conn, w, PG_EV_DECISION, PG_V_DENY);
		pg_count(PG_N_DENIED);
	} else {
		pg_emit(&s->conn, w, PG_EV_CONNECTION, PG_V_DENY);
	}
	return 0;
}

/* The session is undecidable from here on. */
static __always_inline void pg_session_fail(struct pg_session *s, u32 reason)
{
	int outcome;

	if (s->dead || s->blind)
		return;
	outcome = pg_fail_connection(&s->conn, &s->work, reason);
	if (outcome == PG_BLIND) {
		s->blind = 1;
		return;
	}
	pg_session_die(s);
	pg_emit(&s->conn, &s->work, PG_EV_CONNECTION, PG_V_DENY);
}

/* A run over the next bytes: PG_GO if all of them are read, else the reason why not. */
static __always_inline int pg_plain_run(struct pg_plain *p, u32 length)
{
	pg_plain_chunk(p->w, length);
	bpf_loop(PG_TURNS, pg_plain_cb, p, 0);
	if (p->outcome == PG_GO && !p->done)
		p->outcome = p->judged ? pg_fail_connection(p->c, p->w, PG_R_BUDGET) : PG_CUT;
	return p->outcome;
}

/* The client's next bytes. Returns 0 if they are denied. Under the lock. */
static __always_inline int pg_plain_request(struct pg_session *s, u64 user, u32 length)
{
	struct pg_plain p = {.c = &s->conn, .w = &s->work, .user = user, .judged = 1};
	int outcome;

	s->conn.delivered = s->conn.complete;
	s->conn.run++;
	s->conn.chunk++;
	pg_count_add(PG_N_BYTES, length);
	outcome = pg_plain_run(&p, length);
	if (outcome == PG_BLIND)
		s->blind = 1;
	return outcome == PG_GO || outcome == PG_BLIND || pg_session_conclude(s, &s->work, outcome);
}

/* The server's next bytes: they say what becomes of streams, and where rules read responses they are judged. Returns 0
 * if they are denied. Under the response lock. */
static __always_inline int pg_plain_response(struct pg_session *s, u64 user, u32 length)
{
	struct pg_plain p = {.c = &s->conn, .w = &s->other, .user = user, .answer = 1, .judged = config.responses};
	int outcome;

	if (s->conn.answers == PG_A_UNREAD)
		return 1;
	s->other.half = config.responses ? PG_RESPONSE_HALF : 0;
	outcome = pg_plain_run(&p, length);
	if (outcome == PG_GO)
		return 1;
	/* the rest passes unread, by a switch or because nothing is asked about it */
	s->conn.answers = PG_A_UNREAD;
	return !p.judged || outcome == PG_BLIND || pg_session_conclude(s, &s->other, outcome);
}

/* ---- which socket ---- */

/* A session for a connection whose handshake a thread reads in a call on this object. */
static __always_inline void pg_session_open(const struct pg_tls_key *key, struct pg_conn *c, u64 cookie, u32 phase)
{
	struct pg_session *blank, *s;
	u32 zero = 0, process = key->process;

	if (bpf_map_lookup_elem(&tls_unread, &process))
		return;
	if (process == PG_INIT && tls_config.rung != PG_RUNG_CONTEXT)
		return;
	blank = bpf_map_lookup_elem(&blank_session, &zero);
	if (!blank || bpf_map_update_elem(&tls_sessions, key, blank, BPF_NOEXIST))
		return;
	s = bpf_map_lookup_elem(&tls_sessions, key);
	if (!s || bpf_probe_read_kernel(&s->conn, sizeof(s->conn), c))
		return;
	s->cookie = cookie;
	s->conn.cookie = cookie;
	s->conn.lock = 0;
	s->conn.response_lock = 0;
	s->conn.phase = PG_P_LIVE;
	s->conn.answers = PG_A_JUDGED;
	s->conn.run = 1;
	__builtin_memset(&s->conn.request, 0, sizeof(s->conn.request));
	__builtin_memset(&s->conn.response, 0, sizeof(s->conn.response));
	s->conn.request.state = PG_H2_PREFACE;
	s->conn.response.state = PG_H2_HEAD;
	s->conn.table_limit = PG_HPACK_DEFAULT_TABLE;
	bpf_map_delete_elem(&tls_over, key);
	c->tls_object = key->object;
	c->tls_process = key->process;
	c->tls = phase;
}

static __always_inline int pg_hello_read(const struct pg_tls_key *key, u32 random_at, struct pg_hello *hello)
{
	u64 *words = (u64 *)hello;
	u32 via = random_at >> PG_RANDOM_VIA, at = random_at & ((1 << PG_RANDOM_VIA) - 1);

	words[0] = key->object;
	if (!random_at || (via && bpf_probe_read_user(words, sizeof(*words), (void *)(key->object + via))))
		return 0;
	if (bpf_probe_read_user(hello, sizeof(*hello), (void *)(words[0] + at)))
		return 0;
	return words[0] || words[1]; /* zeros: there is none yet */
}

/*
 * An object that reads no socket, but is given what others have read: it is known by the client's random number, which
 * the filter has seen on the wire. Nothing is encrypted with it before this call returns, so nothing goes unjudged.
 */
static __always_inline void pg_session_join(const struct pg_tls_key *key, u32 random_at)
{
	struct pg_hello hello __attribute__((aligned(8)));
	struct pg_hello_ends ends = {.object = key->object, .process = key->process}, *found;
	struct pg_conn *c;
	u64 cookie;

	if (!pg_hello_read(key, random_at, &hello))
		return;
	found = bpf_map_lookup_elem(&tls_hellos, &hello);
	if (!found) {
		/* a client's, whose first bytes are still to be sent */
		if (!tls_config.server && bpf_map_update_elem(&tls_hellos, &hello, &ends, BPF_NOEXIST))
			pg_count(PG_N_HELPER_FAILED);
		return;
	}
	if (!__sync_val_compare_and_swap(&found->object, 0, key->object))
		found->process = key->process;
	cookie = found->cookie;
	if (found->object != key->object || found->process != key->process || found->spoiled || !cookie)
		return;
	c = bpf_map_lookup_elem(&conns, &cookie);
	if (!c || c->cookie != cookie || c->tls || c->request.state != PG_H2_TLS || c->phase != PG_P_LIVE)
		return;
	pg_session_open(key, c, cookie, PG_TLS_FED);
}

/*
 * A copy of an object that is fed, in a process that was forked from the one that has the session: nobody follows what
 * it reads. Returns the connection, which is over; 0 if the object is none.
 */
static __always_inline u64 pg_session_copied(const struct pg_tls_key *key, u32 random_at)
{
	struct pg_hello hello __attribute__((aligned(8)));
	struct pg_hello_ends *found;
	struct pg_conn *c;
	u64 cookie;

	if (!pg_hello_read(key, random_at, &hello))
		return 0;
	found = bpf_map_lookup_elem(&tls_hellos, &hello);
	if (!found || found->object != key->object || found->process == key->process)
		return 0;
	cookie = found->cookie;
	c = bpf_map_lookup_elem(&conns, &cookie);
	if (!c || c->cookie != cookie || c->tls != PG_TLS_FED)
		return 0;
	c->phase = PG_P_DEAD;
	return cookie;
}

/* An object without a session has taken plaintext that would have been judged: it cannot get one any more. */
static __always_inline void pg_hello_spoil(const struct pg_tls_key *key, u32 random_at)
{
	struct pg_hello hello __attribute__((aligned(8)));
	struct pg_hello_ends ends = {.object = key->object, .process = key->process, .spoiled = 1}, *found;

	if (!pg_hello_read(key, random_at, &hello) || !bpf_map_update_elem(&tls_hellos, &hello, &ends, BPF_NOEXIST))
		return;
	found = bpf_map_lookup_elem(&tls_hellos, &hello);
	if (found)
		found->spoiled = 1;
}

static long pg_session_unread(void *map, struct pg_tls_key *key, struct pg_session *s, u32 *process)
{
	(void)map;
	if (key->process == *process)
		pg_session_fail(s, PG_R_TLS_CALL);
	return 0;
}

/* From here on nobody knows what the process reads and writes: none of its connections has a session. */
static __always_inline void pg_process_unread(void)
{
	u32 process = bpf_get_current_pid_tgid() >> 32, one = 1;

	if (bpf_map_lookup_elem(&tls_unread, &process))
		return;
	if (bpf_map_update_elem(&tls_unread, &process, &one, BPF_ANY))
		pg_count(PG_N_HELPER_FAILED);
	bpf_for_each_map_elem(&tls_sessions, pg_session_unread, &process, 0);
}

/* The object is gone, or used for another connection. */
static __always_inline void pg_session_forget(const struct pg_tls_key *key)
{
	struct pg_session *s = bpf_map_lookup_elem(&tls_sessions, key);
	struct pg_conn *c;

	bpf_map_delete_elem(&tls_over, key);
	if (!s)
		return;
	c = &s->conn;
	pg_streams_drop(c);
	bpf_map_delete_elem(&tls_sessions, key);
}

#endif
