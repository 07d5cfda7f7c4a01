/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The protobuf wire format, for the fields that the policy names: everything else is passed over without being
 * loaded. Fields come in any order, the last scalar wins, sub-messages merge, a oneof's member clears the others
 * (their rows do that); a known field with another wire type and all that stands in groups is unknown.
 */
#ifndef PG_PROTO_PROTOBUF_H
#define PG_PROTO_PROTOBUF_H

#include "policy/match.h"
#include "proto/utf8.h"

enum pg_wire { PG_W_VARINT, PG_W_FIXED64, PG_W_BYTES, PG_W_GROUP, PG_W_GROUP_END, PG_W_FIXED32 };

#define PG_VARINT_BYTES 10
#define PG_PB_BYTES_A_CALL 16

/* ---- values ---- */

static inline u64 pg_key_signed(u64 value)
{
	return value ^ (1ull << 63);
}

static inline u64 pg_zigzag(u64 value)
{
	return (value >> 1) ^ (0 - (value & 1));
}

/* The bits of a double to an unsigned key in the same order; -0.0 counts as 0.0. */
static inline u64 pg_key_double(u64 bits)
{
	if (bits == 1ull << 63)
		bits = 0;
	return bits >> 63 ? ~bits : bits | 1ull << 63;
}

#define PG_DOUBLE_INFINITY 0x7ff0000000000000ull

static inline int pg_double_nan(u64 bits)
{
	return (bits & ~(1ull << 63)) > PG_DOUBLE_INFINITY;
}

/* A float's bits to those of the double of the same value: BPF has no floating point. */
static inline u64 pg_widen(u32 bits)
{
	u64 sign = (u64)(bits >> 31) << 63;
	u32 exponent = bits >> 23 & 0xff;
	u64 fraction = bits & 0x7fffff;
	u32 i, high = 0;

	if (exponent == 0xff)
		return sign | PG_DOUBLE_INFINITY | fraction << 29;
	if (exponent)
		return sign | (u64)(exponent + 1023 - 127) << 52 | fraction << 29;
	if (!fraction)
		return sign;
	for (i = 0; i < 23; i++)
		if (fraction >> i & 1)
			high = i;
	/* subnormal: fraction * 2^-149, and the highest set bit becomes the hidden one */
	return sign | (u64)(high + 1023 - 149) << 52 | ((fraction << (52 - high)) & ((1ull << 52) - 1));
}

static inline u32 pg_kind_wire(u32 kind)
{
	if (kind == PG_K_MESSAGE || kind == PG_K_STRING || kind == PG_K_BYTES)
		return PG_W_BYTES;
	if (kind == PG_K_FIXED64 || kind == PG_K_SFIXED64 || kind == PG_K_DOUBLE)
		return PG_W_FIXED64;
	if (kind == PG_K_FIXED32 || kind == PG_K_SFIXED32 || kind == PG_K_FLOAT)
		return PG_W_FIXED32;
	return PG_W_VARINT;
}

/* The raw value of a scalar field to the key that its bounds compare (abi/tables.h). */
static inline u64 pg_scalar_key(u32 kind, u64 raw, u32 *nan)
{
	switch (kind) {
	case PG_K_BOOL:
		return raw != 0;
	case PG_K_INT32:
	case PG_K_SFIXED32:
		return pg_key_signed((u64)(s64)(s32)(u32)raw);
	case PG_K_UINT32:
		return (u32)raw;
	case PG_K_SINT32:
		return pg_key_signed((u64)(s64)(s32)(u32)pg_zigzag((u32)raw));
	case PG_K_INT64:
	case PG_K_SFIXED64:
		return pg_key_signed(raw);
	case PG_K_SINT64:
		return pg_key_signed(pg_zigzag(raw));
	case PG_K_FLOAT:
		raw = pg_widen(raw);
		*nan = pg_double_nan(raw);
		return pg_key_double(raw);
	case PG_K_DOUBLE:
		*nan = pg_double_nan(raw);
		return pg_key_double(raw);
	}
	return raw;
}

PG_STEP int pg_pb_scalar(struct pg_stream *s, u64 raw)
{
	const struct pg_field *f;
	u32 nan = 0;
	u64 key;

	if (!s || !s->field)
		return 0;
	f = pg_get_field(s->field - 1);
	if (!f)
		return 0;
	key = pg_scalar_key(f->kind, raw, &nan);
	pg_row(&s->bits, nan ? f->nan : (u32)pg_bound_row(f->bound, f->bounds, key));
	return 0;
}

/* ---- strings and bytes ---- */

static inline void pg_pb_string_start(struct pg_stream *s, const struct pg_field *f)
{
	u32 k;

	s->points = 0;
	s->utf8 = 0;
	for (k = 0; k < PG_MAX_FIELD_AUTOMATA; k++)
		s->automaton[k] = k < f->automata ? pg_automaton_start(f->automaton + k) : 0;
}

/* Some bytes of the value that is in the window. Returns PG_R_UTF8 where a string is none. */
PG_STEP int pg_pb_string(struct pg_stream *s, struct pg_work *w, u32 n)
{
	const struct pg_automaton *a;
	const struct pg_field *f;
	u32 k, row, i;
	u8 byte;

	if (!s || !w || !s->field)
		return PG_R_INTERNAL;
	f = pg_get_field(s->field - 1);
	if (!f)
		return PG_R_INTERNAL;
	for (i = 0; i < PG_PB_BYTES_A_CALL; i++) {
		if (i >= n)
			break;
		byte = pg_peek(w);
		w->pos++;
		if (f->kind == PG_K_STRING) {
			if (!s->utf8)
				s->points++;
			s->utf8 = pg_utf8_step(s->utf8, byte);
			if (s->utf8 == PG_UTF8_BAD) {
				/* the caller counts them all: where a switch lets the message pass, it is passed over
				 * from here */
				w->pos += n - 1 - i;
				return PG_R_UTF8;
			}
		} else {
			s->points++;
		}
		for (k = 0; k < PG_MAX_FIELD_AUTOMATA; k++) {
			if (k >= f->automata)
				break;
			a = pg_get_automaton(f->automaton + k);
			if (!a)
				break;
			s->automaton[k] = pg_automaton_step(a, s->automaton[k], byte);
			row = pg_automaton_enter(a, s->automaton[k]);
			if (row)
				pg_row(&s->bits, row);
		}
	}
	return PG_R_NONE;
}

PG_STEP int pg_pb_string_end(struct pg_stream *s)
{
	const struct pg_field *f;
	u32 k;

	if (!s || !s->field)
		return PG_R_INTERNAL;
	f = pg_get_field(s->field - 1);
	if (!f)
		return PG_R_INTERNAL;
	if (f->kind == PG_K_STRING && s->utf8)
		return PG_R_UTF8;
	for (k = 0; k < PG_MAX_FIELD_AUTOMATA; k++) {
		if (k >= f->automata)
			break;
		pg_row(&s->bits, pg_automaton_end(f->automaton + k, s->automaton[k]));
	}
	if (f->bounds)
		pg_row(&s->bits, (u32)pg_bound_row(f->bound, f->bounds, s->points));
	return PG_R_NONE;
}

/* ---- tokens ---- */

/* Where what is read now has to end. */
static inline u32 pg_pb_end(const struct pg_stream *s)
{
	return s->depth ? s->level[pg_index(s->depth - 1, PG_MAX_MESSAGE_DEPTH)].end : s->length;
}

static inline int pg_pb_in_group(const struct pg_stream *s)
{
	return s->depth && s->level[pg_index(s->depth - 1, PG_MAX_MESSAGE_DEPTH)].node & PG_LEVEL_GROUP;
}

static inline u32 pg_pb_push(struct pg_stream *s, u32 end, u32 node)
{
	struct pg_level *level;

	if (s->depth >= PG_MAX_MESSAGE_DEPTH)
		return PG_R_MESSAGE_DEPTH;
	level = &s->level[pg_index(s->depth, PG_MAX_MESSAGE_DEPTH)];
	level->end = end;
	level->node = node;
	s->depth++;
	return PG_R_NONE;
}

/* Index + 1 of the field with this number in a node, 0 if the policy does not read it. Fields are sorted. */
PG_STEP int pg_pb_find(u32 node, u32 number)
{
	const struct pg_node *n = pg_get_node(node);
	const struct pg_field *f;
	u32 low, high, middle;
	int i;

	if (!n || !n->fields)
		return 0;
	low = n->field;
	high = n->field + n->fields - 1;
	for (i = 0; i < 16 && low < high; i++) {
		middle = (low + high) / 2;
		f = pg_get_field(middle);
		if (!f)
			return 0;
		if (f->number < number)
			low = middle + 1;
		else
			high = middle;
	}
	f = pg_get_field(low);
	return f && f->number == number ? low + 1 : 0;
}

static inline u32 pg_pb_current_node(const struct pg_stream *s, u32 plan)
{
	return s->depth ? s->level[pg_index(s->depth - 1, PG_MAX_MESSAGE_DEPTH)].node : plan;
}

/* The next value is `size` bytes long and starts here. */
static inline u32 pg_pb_size(struct pg_stream *s, u64 size, u32 state)
{
	if (size > pg_pb_end(s) - s->offset)
		return PG_R_PROTOBUF_LENGTH;
	s->left = size;
	/* nothing to skip is skipped at once: the message may end here */
	s->pb = state == PG_PB_SKIP && !size ? PG_PB_TAG : state;
	return PG_R_NONE;
}

/* A tag is whole: what its value is. */
PG_STEP int pg_pb_tag(struct pg_stream *s, u32 plan)
{
	const struct pg_field *f;
	u32 number, wire;

	if (!s)
		return PG_R_INTERNAL;
	number = (u32)s->value >> 3;
	wire = (u32)s->value & 7;
	if (s->value >> 32 || !number)
		return PG_R_PROTOBUF_TAG;
	s->value = 0;
	s->have = 0;
	s->field = 0;
	if (wire == PG_W_GROUP_END) {
		if (!pg_pb_in_group(s) || pg_pb_current_node(s, plan) != (PG_LEVEL_GROUP | number))
			return PG_R_PROTOBUF_GROUP;
		s->depth--;
		s->pb = PG_PB_TAG;
		return PG_R_NONE;
	}
	if (wire > PG_W_FIXED32)
		return PG_R_PROTOBUF_TAG;
	if (!pg_pb_in_group(s)) {
		s->field = pg_pb_find(pg_pb_current_node(s, plan), number);
		f = s->field ? pg_get_field(s->field - 1) : 0;
		if (f && f->flags & PG_FIELD_MAP && wire != PG_W_BYTES)
			return PG_R_PROTOBUF_MAP;
		if (!f || pg_kind_wire(f->kind) != wire || f->flags & PG_FIELD_MAP)
			s->field = 0;
		else
			pg_row(&s->bits, f->reset);
	}
	if (wire == PG_W_GROUP) {
		s->pb = PG_PB_TAG;
		return pg_pb_push(s, pg_pb_end(s), PG_LEVEL_GROUP | number);
	}
	switch (wire) {
	case PG_W_VARINT:
		s->pb = PG_PB_VARINT;
		return PG_R_NONE;
	case PG_W_BYTES:
		s->pb = PG_PB_LENGTH;
		return PG_R_NONE;
	case PG_W_FIXED64:
		return pg_pb_size(s, 8, s->field ? PG_PB_FIXED : PG_PB_SKIP);
	default:
		return pg_pb_size(s, 4, s->field ? PG_PB_FIXED : PG_PB_SKIP);
	}
}

/* The length of a length-delimited field is known: it is skipped, read, or descended into. */
PG_STEP int pg_pb_length(struct pg_stream *s)
{
	const struct pg_field *f;
	u64 size;
	u32 reason;

	if (!s)
		return PG_R_INTERNAL;
	size = s->value;
	s->value = 0;
	s->have = 0;
	f = s->field ? pg_get_field(s->field - 1) : 0;
	if (!f)
		return pg_pb_size(s, size, PG_PB_SKIP);
	if (f->kind == PG_K_MESSAGE) {
		reason = pg_pb_size(s, size, PG_PB_TAG);
		if (reason)
			return reason;
		return pg_pb_push(s, s->offset + (u32)size, f->child);
	}
	pg_pb_string_start(s, f);
	reason = pg_pb_size(s, size, PG_PB_BYTES);
	if (reason || size)
		return reason;
	s->pb = PG_PB_TAG;
	return pg_pb_string_end(s);
}

/* A varint byte by byte; any encoding up to ten bytes counts, the tenth has one bit. `*whole`: it was the last. */
static inline u32 pg_pb_varint_byte(struct pg_stream *s, u8 byte, u32 *whole)
{
	if (s->have >= PG_VARINT_BYTES || (s->have == PG_VARINT_BYTES - 1 && byte > 1))
		return PG_R_PROTOBUF_VARINT;
	s->value |= (u64)(byte & 0x7f) << (7 * s->have & 63);
	s->have++;
	*whole = !(byte & 0x80);
	return PG_R_NONE;
}

static inline void pg_pb_start(struct pg_stream *s)
{
	s->pb = PG_PB_TAG;
	s->have = 0;
	s->value = 0;
	s->depth = 0;
	s->field = 0;
}

/*
 * A step through the message: `n` bytes of it are in the chunk, of which those that are looked at are in the window.
 * Sub-messages that end here are left.
 */
PG_STEP int pg_pb_step(struct pg_stream *s, struct pg_work *w, u32 plan, u32 n)
{
	u32 reason = PG_R_NONE, whole = 0, used, i;
	u8 byte;

	if (!s || !w)
		return PG_R_INTERNAL;
	if (s->pb == PG_PB_SKIP) {
		used = pg_pass(w, s->left < n ? s->left : n);
		s->left -= used;
		s->offset += used;
		if (!s->left)
			s->pb = PG_PB_TAG;
	} else if (s->pb == PG_PB_BYTES) {
		used = pg_ready(w);
		if (used > n)
			used = n;
		if (used > s->left)
			used = s->left;
		if (used > PG_PB_BYTES_A_CALL)
			used = PG_PB_BYTES_A_CALL;
		reason = pg_pb_string(s, w, used);
		s->left -= used;
		s->offset += used;
		if (!reason && !s->left) {
			s->pb = PG_PB_TAG;
			reason = pg_pb_string_end(s);
		}
	} else {
		if (s->offset >= pg_pb_end(s))
			return PG_R_PROTOBUF_LENGTH;
		byte = pg_peek(w);
		w->pos++;
		s->offset++;
		if (s->pb == PG_PB_FIXED) {
			s->value |= (u64)byte << (8 * s->have & 63);
			s->have++;
			s->left--;
			if (!s->left) {
				pg_pb_scalar(s, s->value);
				s->pb = PG_PB_TAG;
				s->have = 0;
				s->value = 0;
			}
		} else {
			reason = pg_pb_varint_byte(s, byte, &whole);
			if (!reason && whole) {
				if (s->pb == PG_PB_TAG) {
					reason = pg_pb_tag(s, plan);
				} else if (s->pb == PG_PB_LENGTH) {
					reason = pg_pb_length(s);
				} else {
					pg_pb_scalar(s, s->value);
					s->pb = PG_PB_TAG;
					s->have = 0;
					s->value = 0;
				}
			}
		}
	}
	if (reason)
		return reason;
	for (i = 0; i < PG_MAX_MESSAGE_DEPTH; i++) {
		if (!s->depth || s->pb != PG_PB_TAG || s->have || pg_pb_in_group(s) || s->offset < pg_pb_end(s))
			break;
		s->depth--;
	}
	return PG_R_NONE;
}

/* May the message end here? */
static inline u32 pg_pb_finish(const struct pg_stream *s)
{
	if (s->pb != PG_PB_TAG || s->have)
		return PG_R_PROTOBUF_LENGTH;
	if (s->depth)
		return pg_pb_in_group(s) ? PG_R_PROTOBUF_GROUP : PG_R_PROTOBUF_LENGTH;
	return PG_R_NONE;
}

#endif
