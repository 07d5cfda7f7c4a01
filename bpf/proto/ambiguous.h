/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What protobuf libraries read differently and no encoder writes (docs/journal/0013): state and steps of its own. */
#ifndef PG_PROTO_AMBIGUOUS_H
#define PG_PROTO_AMBIGUOUS_H

#include "proto/scalar.h"

#define PG_VARINT_BYTES 10
#define PG_NARROW_BYTES 5 /* of a varint of 32 bits; protobuf.js takes five or ten */
#define PG_PB_BYTES_A_CALL 16

/* Is it refused? The nodes have all fields then. */
static inline int pg_pb_strict(void)
{
	return config.cause[PG_CAUSE_AMBIGUOUS] != PG_SWITCH_ALLOW;
}

static inline int pg_pb_overlong(u32 bytes)
{
	return bytes > PG_NARROW_BYTES && bytes < PG_VARINT_BYTES;
}

/* ---- packed varints that nobody reads ---- */

/* Some bytes of them, in the window: where each ends. */
PG_STEP int pg_pb_varints(struct pg_stream *s, const struct pg_work *w, u32 n)
{
	const struct pg_field *f;
	u32 i, narrow;
	u8 byte;

	if (!s || !w || !s->field || !config.packed)
		return PG_R_INTERNAL;
	f = pg_get_field(s->field - 1);
	if (!f)
		return PG_R_INTERNAL;
	narrow = pg_kind_narrow(f->kind);
	for (i = 0; i < PG_PB_BYTES_A_CALL; i++) {
		if (i >= n)
			return PG_R_NONE;
		byte = pg_peek_ahead(w, i);
		if (s->have >= PG_VARINT_BYTES - 1 && byte > 1)
			return PG_R_PROTOBUF_VARINT;
		s->have++;
		if (byte & 0x80)
			continue;
		if (narrow && pg_pb_overlong(s->have))
			return PG_R_PROTOBUF_LONG_VARINT;
		s->have = 0;
	}
	return PG_R_NONE;
}

static inline u32 pg_pb_varints_end(struct pg_stream *s)
{
	s->field = 0;
	return s->have ? PG_R_PROTOBUF_LENGTH : PG_R_NONE;
}

/* ---- what may come once ---- */

/* A message of this node begins: nothing of it has come. */
PG_STEP int pg_pb_forget(struct pg_stream *s, u32 node)
{
	const struct pg_node *n = pg_get_node(node);
	u32 i;

	if (!s || !n)
		return PG_R_INTERNAL;
	if (n->once > PG_MAX_ONCE_WORDS - s->once_top)
		return PG_R_MESSAGE_DEPTH;
	for (i = 0; i < PG_MAX_ONCE_WORDS / 2; i++) {
		if (i >= n->once)
			break;
		s->once[pg_index(s->once_top + i, PG_MAX_ONCE_WORDS)] = 0;
	}
	s->once_top += n->once;
	return PG_R_NONE;
}

/* A field comes of which there may be one in its message, or one of its oneof. */
PG_STEP int pg_pb_once(struct pg_stream *s, u32 field)
{
	const struct pg_field *f = pg_get_field(field);
	u32 at, first = 0;
	u64 *word, was;

	if (!s || !f)
		return PG_R_INTERNAL;
	if (s->depth)
		first = s->level[pg_index(s->depth - 1, PG_MAX_MESSAGE_DEPTH)].once;
	at = f->once_at & 63;
	word = &s->once[pg_index(first + f->once_at / 64, PG_MAX_ONCE_WORDS)];
	was = *word >> at & ((1ull << (f->once_bits & 31)) - 1);
	if (was && was != f->once)
		return PG_R_PROTOBUF_ONEOF;
	if (was && (f->kind == PG_K_MESSAGE || f->kind == PG_K_GROUP))
		return PG_R_PROTOBUF_REPEATED;
	*word |= (u64)f->once << at;
	return PG_R_NONE;
}

#endif
