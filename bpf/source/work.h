/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where bytes come from. The engine reads a chunk (a segment's payload, a held copy, a plain buffer) through a window
 * that is filled on demand, so that what nobody looks at is never loaded. Filling it is the only thing that differs
 * between the planes: see run.h, tls/session.h and host/engine.c.
 */
#ifndef PG_SOURCE_WORK_H
#define PG_SOURCE_WORK_H

#include "abi/abi.h"

/* Constant tables. In BPF they are global: static ones may land in a section of their own, without type information. */
#ifdef __BPF__
#define PG_CONST const
#else
#define PG_CONST static const
#endif

/*
 * An index below a power of two. The verifier wants to see the mask on the very register that indexes; the compiler,
 * which may know the range from elsewhere, would drop it as useless. Any kernel.
 */
static inline __attribute__((always_inline)) u32 pg_index(u32 i, u32 size)
{
#ifdef __BPF__
	asm volatile("" : "+r"(i));
#endif
	return i & (size - 1);
}

/*
 * A length from 1 to `most`, for a helper that takes no empty buffer. The verifiers of 6.1, 6.12 and 6.18 learn nothing
 * about the minimum from a comparison with 0, so both ends are bounded by one comparison, of what is one less; that
 * of 7.2 learns. The caller has ruled out 0: it would become `most`.
 */
static inline __attribute__((always_inline)) u32 pg_length(u32 n, u32 most)
{
	n--;
#ifdef __BPF__
	asm volatile("" : "+r"(n));
#endif
	if (n >= most)
		n = most - 1;
#ifdef __BPF__
	asm volatile("" : "+r"(n));
#endif
	return n + 1;
}

#ifdef PG_PLANE_TLS
#define PG_WINDOW 512 /* a session has two */
#else
#define PG_WINDOW 4096 /* a power of two */
#endif
#define PG_WINDOW_FIRST 512 /* of the first load: more costs small calls more than it saves large ones */
#define PG_WINDOW_HEADS 192 /* of the first load of much, and of one behind much that nobody has looked at */
#define PG_WINDOW_MUCH 4096 /* from so many bytes on it is much */
#define PG_WINDOW_GROWS 8   /* times, with each load whose bytes were all looked at */
#define PG_WINDOW_SPARE 64  /* behind it, so that some bytes from a masked index on need no masks of their own */

enum pg_path_form {
	PG_PATH_PLAIN, /* its first two characters */
	PG_PATH_CODED, /* their Huffman code */
	PG_PATH_INDEX, /* its index, one byte */
};

#define PG_PATCH 32 /* room for the two frames that take a denied one's place: 13 and 9 bytes */

/* What a step of the engine asks of its caller. */
enum pg_outcome {
	PG_GO,	   /* go on */
	PG_DENIED, /* an RPC or a message is denied: nothing more of this connection passes */
	PG_CUT,	   /* the connection is denied as a whole */
	PG_BLIND,  /* a switch lets the rest of the connection pass unread */
	PG_STRIP,  /* the frame is for a stream that mending has ended: the server should not see it */
};

/* Scratch of one run, and of the chunk that it is at; of a packet, nothing here outlives its verdict. */
struct pg_work {
	u32 source;    /* enum pg_source */
	u32 slot;      /* of a held chunk */
	u32 base;      /* where the chunk begins in its source */
	u32 end;       /* its length */
	u32 pos;       /* bytes of it consumed */
	u32 window_at; /* the window holds bytes window_at .. window_at + window_size of the chunk */
	u32 window_size;
	u32 ended; /* requests that ended in this run */
	/* of a denial */
	u32 reason;
	u32 rule;
	u32 status;
	u32 stream;
	u32 method;
	u32 text;
	u32 message;
	u32 retry_ms;
	u32 clause; /* 1: the tests of the clause so far hold */
	u32 skip;   /* rule whose tests are passed over; PG_NO_RULE: none */
	u32 test;   /* the next test to look at */
	/* of a segment that may be mended */
	u32 frame_at;	 /* where in the chunk the current frame's head begins; PG_NO_FRAME: in one before */
	u32 path_at;	 /* where in the chunk the block's :path can be changed; PG_NO_FRAME: nowhere */
	u32 path_form;	 /* enum pg_path_form of what is there */
	u32 mendable;	 /* 1: it may: a denied frame may be taken out of it */
	u32 hole_seq;	 /* sequence number of the chunk's first byte that TCP has not */
	u32 hole_skip;	 /* where in the chunk that is */
	u32 hole_length; /* bytes from there on */
	u32 hole_source; /* enum pg_source of the slot with the copy; PG_SRC_PACKET: there is none */
	u32 hole_slot;
	u32 hole_base; /* where in the slot the copy begins */
	u32 credit;    /* bytes of DATA frames taken out */
	u32 resets;    /* RST_STREAM frames put in */
	u32 absorbed;  /* where in the chunk a frame begins that one of the copy has taken in; PG_NO_FRAME: none */
	u32 walked;    /* frames looked at to find those of denied RPCs, in this run */
	u32 mends;     /* 1: the denial that is being told ends its RPC only */
	u32 half;      /* PG_RESPONSE_HALF: what is told is of the response; else 0 */
	u32 taken;     /* 1: a run has it */
	/* of the run; on the stack the verifier would walk each turn anew for every combination of what it knows of
	 * them */
	u32 judged;		   /* sequence number at the end of the chunk */
	u32 replaced;		   /* 1: a copy is to take the packet's place */
	u32 changed;		   /* 1: something is taken out: what came must not pass as it is */
	u32 outcome;		   /* enum pg_outcome: the first that was not PG_GO */
	u32 done;		   /* 1: all of it is read */
	u32 forgotten;		   /* by the verifier: pg_forget() */
	u64 now;		   /* ns; 0: the clock says it */
	struct pg_hole_event said; /* the event that is being made; its `about` is one of the other kind */
	struct pg_withheld_event withheld;
	u8 patch[PG_PATCH];
	u8 window[PG_WINDOW + PG_WINDOW_SPARE];
};

#define PG_NO_FRAME 0xffffffffu

/* A packet comes: what no run sets is as it is where nobody says otherwise. */
static inline void pg_work_begin(struct pg_work *w)
{
	w->half = 0;
	w->now = 0;
	w->mends = 0;
	w->mendable = 0;
	w->outcome = PG_GO;
	w->done = 0;
}

/* Bytes of the window from `pos` on. */
static inline u32 pg_ready(const struct pg_work *w)
{
	u32 gone = w->pos - w->window_at;

	return gone < w->window_size ? w->window_size - gone : 0;
}

static inline u8 pg_peek(const struct pg_work *w)
{
	return w->window[pg_index(w->pos - w->window_at, PG_WINDOW)];
}

/* The byte that is `ahead` bytes further, which the caller knows to be there. */
static inline u8 pg_peek_ahead(const struct pg_work *w, u32 ahead)
{
	return w->window[pg_index(w->pos - w->window_at + ahead, PG_WINDOW)];
}

/* The window's bytes from `ahead` on, at least PG_WINDOW_SPARE of them, whatever they are. */
static inline const u8 *pg_ahead(const struct pg_work *w, u32 ahead)
{
	return &w->window[pg_index(w->pos - w->window_at + ahead, PG_WINDOW)];
}

/* Eight bytes, in the machine's order. BPF reads them at any address, and the compiler does not know that. */
static inline u64 pg_eight(const u8 *bytes)
{
#ifdef __BPF__
	return *(const u64 *)bytes;
#else
	u64 word;

	__builtin_memcpy(&word, bytes, sizeof(word));
	return word;
#endif
}

/* Do two times eight bytes differ, in the first `n`, at least one? The machine is little-endian. */
static inline int pg_eight_differ(const u8 *a, const u8 *b, u32 n)
{
	u64 other = pg_eight(a) ^ pg_eight(b);

	if (n < 8)
		other <<= (8 - n) * 8;
	return other != 0;
}
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the first of eight bytes is the lowest");

static inline void pg_eight_copy(u8 *to, const u8 *from)
{
#ifdef __BPF__
	*(u64 *)to = *(const u64 *)from;
#else
	__builtin_memcpy(to, from, 8);
#endif
}

/*
 * The number again, by way of memory. The verifier takes what it reads there for any number at all: so paths on which
 * it knows different ones are one path from here on, and are walked once.
 */
static inline u32 pg_forget(struct pg_work *w, u32 n)
{
	volatile u32 *place = &w->forgotten;

	*place = n;
	return *place;
}

/* How much of the chunk is to be loaded next: more than before, if all of that was looked at. Where there is much to
 * come, and much was passed over, what comes is the head of a frame, and more that is passed over. */
static inline u32 pg_window_next(struct pg_work *w)
{
	u32 n = w->end - w->pos, most = PG_WINDOW_FIRST;

	if (n >= PG_WINDOW_MUCH && (!w->window_size || w->pos - w->window_at >= PG_WINDOW_FIRST))
		most = PG_WINDOW_HEADS;
	if (w->window_size >= PG_WINDOW_HEADS && w->pos == w->window_at + w->window_size)
		most = w->window_size * PG_WINDOW_GROWS;
	if (most > PG_WINDOW)
		most = PG_WINDOW;
	return pg_forget(w, n < most ? n : most);
}

/* Up to `most` bytes of the chunk are passed over without being loaded. */
static inline u32 pg_pass(struct pg_work *w, u32 most)
{
	u32 rest = w->end - w->pos;
	u32 n = most < rest ? most : rest;

	w->pos += n;
	return n;
}

#endif
