/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * gRPC over HTTP/2: which fields a request needs, and the messages in its DATA (gRPC's PROTOCOL-HTTP2.md,
 * "Length-Prefixed-Message"): one byte of flags, four of length, the message. They span frames as they like.
 */
#ifndef PG_PROTO_GRPC_H
#define PG_PROTO_GRPC_H

#include "policy/match.h"

#define PG_GRPC_PREFIX_BYTES 5

static inline void pg_block_spoil(struct pg_block *b, u32 reason)
{
	if (!b->reason)
		b->reason = reason;
}

/* A pseudo-header stands once, before all regular fields (RFC 9113, section 8.3). */
static inline void pg_block_pseudo(struct pg_block *b, u32 bit)
{
	if (b->seen & (bit | PG_B_REGULAR))
		pg_block_spoil(b, PG_R_PSEUDO_HEADER);
	b->seen |= bit;
}

static inline void pg_block_metadata(struct pg_block *b, const struct pg_entry *e)
{
	const struct pg_key *key = pg_get_key(e->name - PG_NAME_KEY0);
	struct pg_value *v;

	if (!key)
		return;
	pg_row(&b->bits, key->present);
	if (key->automata > 0)
		pg_row(&b->bits, pg_automaton_end(key->automaton, e->out0));
	if (key->automata > 1)
		pg_row(&b->bits, pg_automaton_end(key->automaton + 1, e->out1));
	if (key->counted) {
		v = &b->value[pg_index(key->counted - 1, PG_MAX_BUCKET_KEYS)];
		v->hash[0] = e->hash[0];
		v->hash[1] = e->hash[1];
		v->count++;
	}
}

/* A whole field of the request's header block. */
PG_STEP int pg_block_field(struct pg_block *b, struct pg_hpack *p)
{
	const struct pg_entry *e;

	if (!b || !p)
		return 0;
	e = &p->entry;
	if (e->reason)
		pg_block_spoil(b, e->reason);
	if (e->name < PG_NAME_PATH || e->name > PG_NAME_STATUS)
		b->seen |= PG_B_REGULAR;
	switch (e->name) {
	case PG_NAME_OTHER:
	case PG_NAME_BINARY:
		return 0;
	case PG_NAME_PATH_CHANGED:
	case PG_NAME_PATH:
		if (b->seen & PG_B_PATH)
			b->seen |= PG_B_PATHS;
		b->changed = e->name == PG_NAME_PATH_CHANGED;
		pg_block_pseudo(b, PG_B_PATH);
		b->method = e->out0;
		b->text = e->out1;
		return 0;
	case PG_NAME_METHOD:
		pg_block_pseudo(b, PG_B_METHOD);
		return 0;
	case PG_NAME_SCHEME:
		pg_block_pseudo(b, PG_B_SCHEME);
		return 0;
	case PG_NAME_AUTHORITY:
		pg_block_pseudo(b, PG_B_AUTHORITY);
		return 0;
	case PG_NAME_STATUS:
		pg_block_spoil(b, PG_R_PSEUDO_HEADER);
		return 0;
	case PG_NAME_CONNECTION:
		pg_block_spoil(b, PG_R_CONNECTION_HEADER);
		return 0;
	case PG_NAME_CONTENT_TYPE:
		b->seen |= PG_B_CONTENT_TYPE;
		if (!pg_automaton_end(PG_AUTOMATON_CONTENT_TYPE, e->out0))
			b->seen |= PG_B_NOT_GRPC;
		return 0;
	case PG_NAME_GRPC_ENCODING:
		return 0; /* a message says by its flag whether it is compressed */
	}
	pg_block_metadata(b, e);
	return 0;
}

/* A whole field of a request's trailers. gRPC has none there, but servers add them to the metadata (tonic). */
static inline void pg_block_trailer(struct pg_block *b, const struct pg_entry *e)
{
	if (e->name >= PG_NAME_KEY0)
		pg_block_spoil(b, PG_R_TRAILERS);
}

static inline void pg_block_start(struct pg_block *b, const struct pg_bits *peer, u32 trailers)
{
	u32 i;

	for (i = 0; i < PG_MAX_BUCKET_KEYS; i++)
		b->value[i].count = 0;
	b->bits = *peer;
	b->seen = 0;
	b->reason = PG_R_NONE;
	b->method = 0;
	b->text = 0;
	b->trailers = trailers;
	b->changed = 0;
}

/* What is wrong with a request's whole header block. */
static inline u32 pg_block_check(const struct pg_block *b)
{
	const u32 needed = PG_B_PATH | PG_B_METHOD | PG_B_SCHEME;

	if (b->reason)
		return b->reason;
	if ((b->seen & needed) != needed)
		return PG_R_PSEUDO_HEADER;
	if (!(b->seen & PG_B_CONTENT_TYPE) || b->seen & PG_B_NOT_GRPC)
		return PG_R_CONTENT_TYPE;
	return PG_R_NONE;
}

/* The prefix is whole, and the message begins. */
static inline void pg_grpc_message(struct pg_stream *s, u32 *compressed)
{
	*compressed = s->value;
	s->grpc = PG_G_MESSAGE;
	s->offset = 0;
	s->message++;
}

/* A byte of a message's prefix; with the last the message begins. */
static inline u32 pg_grpc_prefix(struct pg_stream *s, u8 byte, u32 *compressed)
{
	if (!s->have) {
		s->length = 0;
		s->value = byte; /* the flag, until the prefix is whole */
	} else {
		s->length = s->length << 8 | byte;
	}
	s->have++;
	if (s->have < PG_GRPC_PREFIX_BYTES)
		return s->have == 1 && byte > 1 ? PG_R_GRPC_FLAG : PG_R_NONE;
	pg_grpc_message(s, compressed);
	return PG_R_NONE;
}

/* A whole prefix that begins here, if it is among the next `n` bytes and its flag is one. Returns whether it is read.
 */
static inline int pg_grpc_prefix_whole(struct pg_stream *s, struct pg_work *w, u32 n, u32 *compressed)
{
	const u8 *here = pg_ahead(w, 0);

	if (s->have || n < PG_GRPC_PREFIX_BYTES || pg_ready(w) < PG_GRPC_PREFIX_BYTES || here[0] > 1)
		return 0;
	s->value = here[0];
	s->length = (u32)here[1] << 24 | (u32)here[2] << 16 | (u32)here[3] << 8 | here[4];
	s->have = PG_GRPC_PREFIX_BYTES;
	w->pos += PG_GRPC_PREFIX_BYTES;
	pg_grpc_message(s, compressed);
	return 1;
}

static inline int pg_grpc_between_messages(const struct pg_stream *s)
{
	return s->grpc == PG_G_PREFIX && !s->have;
}

#endif
