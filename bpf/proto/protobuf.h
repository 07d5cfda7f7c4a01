/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The protobuf wire format, for the fields that the policy names: everything else is passed over without being
 * loaded. Fields come in any order, the last scalar wins, sub-messages merge, a oneof's member clears the others
 * (their rows do that); a known field with another wire type and all that stands in groups is unknown.
 *
 * Where ambiguous messages are refused (docs/journal/0013), the nodes have all fields, those that no rule reads are
 * walked for their ends, and what libraries read differently has a reason.
 */
#ifndef PG_PROTO_PROTOBUF_H
#define PG_PROTO_PROTOBUF_H

#include "policy/elements.h"
#include "proto/ambiguous.h"
#include "proto/scalar.h"
#include "proto/utf8.h"

/* ---- values ---- */

/* A number is whole. Where it is no element, its field is done with. */
PG_STEP int pg_pb_scalar(struct pg_stream *s, u64 raw)
{
	const struct pg_field *f;
	u32 nan = 0, row;
	u64 key;

	if (!s)
		return PG_R_INTERNAL;
	f = s->field ? pg_get_field(s->field - 1) : 0;
	if (s->field && !f)
		return PG_R_INTERNAL;
	if (f && pg_pb_strict() && pg_kind_narrow(f->kind) &&
	    (pg_pb_overlong(s->have) || (f->kind == PG_K_BOOL && raw >> 32)))
		return PG_R_PROTOBUF_LONG_VARINT;
	s->pb = PG_PB_TAG;
	s->have = 0;
	s->value = 0;
	if (!f)
		return PG_R_NONE;
	if (!(f->flags & PG_FIELD_ELEMENTS))
		s->field = 0;
	if (f->flags & PG_FIELD_SHAPE)
		return PG_R_NONE;
	key = pg_scalar_key(f->kind, raw, &nan);
	if (f->flags & PG_FIELD_KEY)
		s->hash = f->flags & PG_FIELD_SIGNED ? pg_key_signed(key) : key;
	row = nan ? f->nan : (u32)pg_bound_row(f->bound, f->bounds, key);
	if (row == PG_ROW_REFUSED)
		return PG_R_PROTOBUF_VALUE;
	pg_row(&s->bits, row);
	return PG_R_NONE;
}

/* ---- strings and bytes ---- */

static inline void pg_pb_string_start(struct pg_stream *s, const struct pg_field *f)
{
	u32 k;

	s->points = 0;
	s->utf8 = 0;
	if (f->flags & PG_FIELD_KEY)
		pg_key_start(s);
	for (k = 0; k < PG_MAX_FIELD_AUTOMATA; k++)
		s->automaton[k] = k < f->automata ? pg_automaton_start(f->automaton + k) : 0;
}

/* Which ASCII of the value may be passed over in one go, in blocks, as pg_out.stay says it; 0: none. Texts are mostly
 * that. */
PG_STEP int pg_pb_stay(const struct pg_stream *s)
{
	const struct pg_automaton *a;
	const struct pg_field *f;

	if (!s || !s->field || s->utf8)
		return 0;
	f = pg_get_field(s->field - 1);
	if (!f || f->kind != PG_K_STRING || f->flags & PG_FIELD_KEY || f->automata > 1)
		return 0;
	if (!f->automata)
		return PG_STAY_ALWAYS;
	a = pg_get_automaton(f->automaton);
	return a ? pg_automaton_stay(a, s->automaton[0]) : 0;
}

#define PG_PB_RUN 128 /* bytes of a value that are looked at in one go, at most */

/* How much of the next `n` bytes of a value is looked at in one go: many, if they are all ASCII. They are counted, and
 * this is all that is to be known of them as text. 0: they are to be looked at one by one. */
PG_STEP int pg_pb_plain(struct pg_stream *s, const struct pg_work *w, u32 n, u32 text)
{
	u32 i;

	if (!s || !w || (text && s->utf8))
		return 0;
	for (i = 0; i < PG_PB_RUN; i += 8) {
		if (i + 8 > n || (text && pg_eight(pg_ahead(w, i)) & PG_HIGH_BITS))
			break;
	}
	s->points += i;
	return i;
}

/* The next `n` bytes of the value, which are in the window: how many of them a string may have; all, or less than `n`
 * where it is not UTF-8. */
PG_STEP int pg_pb_string(struct pg_stream *s, const struct pg_work *w, u32 n, u32 text)
{
	u32 i;

	if (!s || !w)
		return 0;
	for (i = 0; i < PG_PB_BYTES_A_CALL; i++) {
		if (i >= n)
			break;
		if (text) {
			if (!s->utf8)
				s->points++;
			s->utf8 = pg_utf8_step(s->utf8, pg_peek_ahead(w, i));
			if (s->utf8 == PG_UTF8_BAD)
				break;
		} else {
			s->points++;
		}
	}
	return i;
}

/* Some bytes of a map's key, for its hash. */
PG_STEP int pg_pb_key(struct pg_stream *s, const struct pg_work *w, u32 n)
{
	u32 i;

	if (!s || !w || !config.elements)
		return 0;
	for (i = 0; i < PG_PB_RUN; i++) {
		if (i >= n)
			break;
		pg_key_byte(s, pg_peek_ahead(w, i));
	}
	return 0;
}

/*
 * The last `left` of the next `n` bytes through one of the field's automata; returns how many are left then. All of
 * them in one go, for what it needs is looked up once. Eight at once are passed over where they leave its state as it
 * is.
 */
PG_STEP int pg_pb_automaton(struct pg_stream *s, const struct pg_work *w, u32 k, u32 left, u32 n)
{
	const struct pg_classes *classes;
	const struct pg_automaton *a;
	const struct pg_field *f;
	u32 i, row, state, stay, at, end;

	if (!s || !w || !s->field)
		return 0;
	k = pg_index(k, PG_MAX_FIELD_AUTOMATA);
	f = pg_get_field(s->field - 1);
	a = f ? pg_get_automaton(f->automaton + k) : 0;
	if (!a)
		return 0;
	end = w->pos - w->window_at + n;
	at = end - left;
	state = s->automaton[k];
	stay = pg_automaton_stay(a, state);
	if ((stay & 0xff) == PG_STAY_ALWAYS)
		return 0;
	for (i = 0; i < PG_PB_RUN / 8; i++) {
		if (at + 8 > end || !pg_stays(stay, pg_eight(&w->window[pg_index(at, PG_WINDOW)])))
			break;
		at += 8;
	}
	classes = pg_get_classes(a->classes);
	if (!classes)
		return 0;
	for (i = 0; i < PG_PB_BYTES_A_CALL; i++) {
		if (at >= end)
			break;
		state = pg_automaton_step(a, classes, state, w->window[pg_index(at, PG_WINDOW)]);
		row = pg_automaton_enter(a, state);
		if (row)
			pg_row(&s->bits, row);
		at++;
	}
	s->automaton[k] = state;
	return end - at;
}

/* Some of the next `n` bytes of a string or of bytes, in the window; `*used` is set to how many. */
static inline u32 pg_pb_bytes(struct pg_stream *s, const struct pg_work *w, u32 n, u32 *used)
{
	const struct pg_field *f = s->field ? pg_get_field(s->field - 1) : 0;
	u32 i, k, left, text, valid;

	if (!f)
		return PG_R_INTERNAL;
	if (n >= PG_BLOCK && !(pg_eight(pg_ahead(w, 0)) & PG_HIGH_BITS)) {
		*used = pg_blocks(w, n, pg_pb_stay(s));
		s->points += *used;
		if (*used)
			return PG_R_NONE;
	}
	text = f->kind == PG_K_STRING;
	valid = pg_pb_plain(s, w, n, text);
	if (valid) {
		n = valid;
	} else {
		if (n > PG_PB_BYTES_A_CALL)
			n = PG_PB_BYTES_A_CALL;
		valid = pg_pb_string(s, w, n, text);
	}
	*used = n;
	if (f->flags & PG_FIELD_KEY)
		pg_pb_key(s, w, valid);
	for (k = 0; k < PG_MAX_FIELD_AUTOMATA; k++) {
		if (k >= f->automata)
			break;
		left = valid;
		for (i = 0; i < PG_PB_RUN / PG_PB_BYTES_A_CALL; i++) {
			if (!left)
				break;
			left = pg_pb_automaton(s, w, k, left, valid);
		}
	}
	return valid < n ? PG_R_UTF8 : PG_R_NONE;
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
	if (!(f->flags & PG_FIELD_ELEMENTS))
		s->field = 0;
	if (f->flags & PG_FIELD_KEY)
		pg_key_end(s, s->points);
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

#define PG_FIND_STEPS 18 /* by halves through the fields of one message */
_Static_assert(PG_MAX_FIELDS <= 1 << PG_FIND_STEPS, "every field is found");

/* Where what is read now has to end. */
static inline u32 pg_pb_end(const struct pg_stream *s)
{
	if (s->packed)
		return s->packed;
	return s->depth ? s->level[pg_index(s->depth - 1, PG_MAX_MESSAGE_DEPTH)].end : s->length;
}

static inline u32 pg_pb_level(const struct pg_stream *s)
{
	return s->depth ? s->level[pg_index(s->depth - 1, PG_MAX_MESSAGE_DEPTH)].node : 0;
}

static inline int pg_pb_in_group(const struct pg_stream *s)
{
	return (pg_pb_level(s) & (PG_LEVEL_GROUP | PG_LEVEL_KNOWN)) != 0;
}

/* In a group that the descriptor does not have: all that stands there is unknown. */
static inline int pg_pb_in_unknown(const struct pg_stream *s)
{
	return (pg_pb_level(s) & PG_LEVEL_GROUP) != 0;
}

/* The number of the group that is read. */
static inline u32 pg_pb_group(const struct pg_stream *s)
{
	const struct pg_level *level = &s->level[pg_index(s->depth - 1, PG_MAX_MESSAGE_DEPTH)];

	return level->node & PG_LEVEL_GROUP ? level->node & ~PG_LEVEL_GROUP : level->element;
}

static inline u32 pg_pb_push(struct pg_stream *s, u32 end, u32 node, u32 element)
{
	struct pg_level *level;

	if (s->depth >= PG_MAX_MESSAGE_DEPTH)
		return PG_R_MESSAGE_DEPTH;
	level = &s->level[pg_index(s->depth, PG_MAX_MESSAGE_DEPTH)];
	level->end = end;
	level->node = node;
	level->element = element;
	level->once = s->once_top;
	s->depth++;
	return PG_R_NONE;
}

/* Index + 1 of the field with this number in a node, 0 if it has none. Fields are sorted. */
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
	for (i = 0; i < PG_FIND_STEPS && low < high; i++) {
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
	return s->depth ? pg_pb_level(s) & ~PG_LEVEL_KNOWN : plan;
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

/* A value of this wire type comes now. */
static inline u32 pg_pb_value(struct pg_stream *s, u32 wire)
{
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

static inline int pg_pb_is_packed(const struct pg_field *f, u32 wire)
{
	return wire == PG_W_BYTES && f->flags & (PG_FIELD_ELEMENTS | PG_FIELD_PACKABLE) &&
	       pg_kind_wire(f->kind) != PG_W_BYTES;
}

/* The next packed element begins here. */
static inline u32 pg_pb_packed(struct pg_stream *s, const struct pg_field *f)
{
	pg_row(&s->bits, f->reset);
	return pg_pb_value(s, pg_kind_wire(f->kind));
}

static inline void pg_pb_pop(struct pg_stream *s)
{
	s->depth--;
	s->once_top = s->level[pg_index(s->depth, PG_MAX_MESSAGE_DEPTH)].once;
}

/* A group of the descriptor begins. (Inline: 6.1 counts 32 bytes of stack for a frame.) */
static __always_inline u32 pg_pb_known_group(struct pg_stream *s, const struct pg_field *f)
{
	u32 reason;

	s->field = 0;
	s->pb = PG_PB_TAG;
	reason = pg_pb_push(s, pg_pb_end(s), PG_LEVEL_KNOWN | f->child, f->number);
	return reason ? reason : (u32)pg_pb_forget(s, f->child);
}

/* A tag is whole: what its value is. */
PG_STEP int pg_pb_tag(struct pg_stream *s, u32 plan)
{
	const struct pg_field *f;
	u32 number, wire, reason;

	if (!s)
		return PG_R_INTERNAL;
	number = (u32)s->value >> 3;
	wire = (u32)s->value & 7;
	if (s->value >> 32 || !number)
		return PG_R_PROTOBUF_TAG;
	if (s->have > PG_NARROW_BYTES && pg_pb_strict())
		return PG_R_PROTOBUF_LONG_VARINT;
	s->value = 0;
	s->have = 0;
	s->field = 0;
	if (wire == PG_W_GROUP_END) {
		if (!pg_pb_in_group(s) || pg_pb_group(s) != number)
			return PG_R_PROTOBUF_GROUP;
		pg_pb_pop(s);
		s->pb = PG_PB_TAG;
		return PG_R_NONE;
	}
	if (wire > PG_W_FIXED32)
		return PG_R_PROTOBUF_TAG;
	if (!pg_pb_in_unknown(s)) {
		s->field = pg_pb_find(pg_pb_current_node(s, plan), number);
		f = s->field ? pg_get_field(s->field - 1) : 0;
		if (f && f->flags & PG_FIELD_MAP && wire != PG_W_BYTES)
			return PG_R_PROTOBUF_MAP;
		if (!f) {
			s->field = 0;
		} else if (pg_kind_wire(f->kind) == wire) {
			pg_row(&s->bits, f->reset);
		} else if (!pg_pb_is_packed(f, wire)) {
			if (pg_pb_strict())
				return PG_R_PROTOBUF_WIRE_TYPE;
			s->field = 0;
		}
		if (s->field && f->once_bits) {
			reason = pg_pb_once(s, s->field - 1);
			if (reason)
				return reason;
		}
		if (f && wire == PG_W_GROUP && pg_pb_strict())
			return pg_pb_known_group(s, f);
		if (f && f->flags & PG_FIELD_SHAPE && wire != PG_W_VARINT && wire != PG_W_BYTES)
			s->field = 0;
	}
	if (wire == PG_W_GROUP) {
		s->pb = PG_PB_TAG;
		return pg_pb_push(s, pg_pb_end(s), PG_LEVEL_GROUP | number, 0);
	}
	return pg_pb_value(s, wire);
}

/* Texts, bytes and packed numbers that no rule reads. */
static inline u32 pg_pb_pass(struct pg_stream *s, const struct pg_field *f, u64 size)
{
	u32 wire = pg_kind_wire(f->kind);

	if (wire == PG_W_VARINT && size)
		return pg_pb_size(s, size, PG_PB_PACKED);
	s->field = 0;
	if ((wire == PG_W_FIXED32 && size & 3) || (wire == PG_W_FIXED64 && size & 7))
		return PG_R_PROTOBUF_LENGTH;
	return pg_pb_size(s, size, PG_PB_SKIP);
}

/* The length of a length-delimited field is known: it is skipped, read, or descended into. */
PG_STEP int pg_pb_length(struct pg_stream *s)
{
	const struct pg_field *f;
	u64 size;
	u32 reason, element;

	if (!s)
		return PG_R_INTERNAL;
	if (s->have > PG_NARROW_BYTES && pg_pb_strict())
		return PG_R_PROTOBUF_LONG_VARINT;
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
		element = f->flags & PG_FIELD_ELEMENTS ? s->field : 0;
		s->field = 0;
		if (f->flags & PG_FIELD_DISTINCT)
			s->hash = PG_KEY_ABSENT;
		reason = pg_pb_push(s, s->offset + (u32)size, f->child, element);
		return reason || !pg_pb_strict() ? reason : (u32)pg_pb_forget(s, f->child);
	}
	if (f->flags & PG_FIELD_SHAPE)
		return pg_pb_pass(s, f, size);
	if (pg_pb_is_packed(f, PG_W_BYTES)) {
		reason = pg_pb_size(s, size, PG_PB_TAG);
		if (reason || !size) {
			s->field = 0;
			return reason;
		}
		s->packed = s->offset + (u32)size;
		return pg_pb_packed(s, f);
	}
	if (f->kind == PG_K_BYTES && !f->automata && !f->bounds && !(f->flags & PG_FIELD_KEY))
		return pg_pb_size(s, size, PG_PB_SKIP);
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

/* A byte of a tag, of a length, or of a number. */
static inline u32 pg_pb_token_byte(struct pg_stream *s, u32 plan, u8 byte)
{
	u32 reason, whole = 0;

	if (s->pb == PG_PB_FIXED) {
		s->value |= (u64)byte << (8 * s->have & 63);
		s->have++;
		s->left--;
		return s->left ? PG_R_NONE : pg_pb_scalar(s, s->value);
	}
	reason = pg_pb_varint_byte(s, byte, &whole);
	if (reason || !whole)
		return reason;
	if (s->pb == PG_PB_TAG)
		return pg_pb_tag(s, plan);
	if (s->pb == PG_PB_LENGTH)
		return pg_pb_length(s);
	return pg_pb_scalar(s, s->value);
}

/* Is the next byte one of a token that has begun, or of the one that must follow? */
static inline int pg_pb_in_token(const struct pg_stream *s)
{
	return s->have || s->pb == PG_PB_LENGTH || s->pb == PG_PB_VARINT || s->pb == PG_PB_FIXED;
}

#define PG_PB_TOKEN_BYTES 4 /* at most, in one go */

static inline void pg_pb_start(struct pg_stream *s)
{
	s->pb = PG_PB_TAG;
	s->have = 0;
	s->value = 0;
	s->depth = 0;
	s->field = 0;
	s->packed = 0;
	s->once_top = 0;
}

/* What nobody reads: up to `n` bytes of it are passed over. Returns how many. */
static inline u32 pg_pb_skip(struct pg_stream *s, struct pg_work *w, u32 n)
{
	u32 used = pg_pass(w, s->left < n ? s->left : n);

	s->left -= used;
	s->offset += used;
	if (!s->left)
		s->pb = PG_PB_TAG;
	return used;
}

/*
 * A step through the message: `n` bytes of it are in the chunk, of which those that are looked at are in the window.
 */
PG_STEP int pg_pb_step(struct pg_stream *s, struct pg_work *w, u32 plan, u32 n)
{
	u32 reason = PG_R_NONE, used, i;
	u8 byte;

	if (!s || !w)
		return PG_R_INTERNAL;
	if (s->pb == PG_PB_SKIP) {
		pg_pb_skip(s, w, n);
	} else if (s->pb == PG_PB_BYTES || s->pb == PG_PB_PACKED) {
		used = pg_ready(w);
		if (used > n)
			used = n;
		if (used > s->left)
			used = s->left;
		if (s->pb == PG_PB_BYTES) {
			reason = pg_pb_bytes(s, w, used, &used);
		} else {
			if (used > PG_PB_BYTES_A_CALL)
				used = PG_PB_BYTES_A_CALL;
			reason = pg_pb_varints(s, w, used);
		}
		/* Counted whatever is wrong with them: where a switch lets the message pass, its rest is passed over.
		 */
		w->pos += used;
		s->left -= used;
		s->offset += used;
		if (!reason && !s->left) {
			reason = s->pb == PG_PB_BYTES ? (u32)pg_pb_string_end(s) : pg_pb_varints_end(s);
			s->pb = PG_PB_TAG;
		}
	} else {
		used = pg_ready(w);
		if (used > n)
			used = n;
		for (i = 0; i < PG_PB_TOKEN_BYTES; i++) {
			if (i >= used)
				break;
			if (s->offset >= pg_pb_end(s))
				return PG_R_PROTOBUF_LENGTH;
			byte = pg_peek(w);
			w->pos++;
			s->offset++;
			reason = pg_pb_token_byte(s, plan, byte);
			if (reason || !pg_pb_in_token(s))
				break;
		}
	}
	return reason;
}

/* Has something ended here that pg_pb_close() has to do with: an element, or a sub-message? */
static inline int pg_pb_closes(const struct pg_stream *s)
{
	return s->pb == PG_PB_TAG && !s->have && (s->field || s->depth);
}

/* Does the sub-message end here that is read? */
static inline int pg_pb_ends(const struct pg_stream *s)
{
	const struct pg_level *level = &s->level[pg_index(s->depth - 1, PG_MAX_MESSAGE_DEPTH)];

	return s->depth && !(level->node & (PG_LEVEL_GROUP | PG_LEVEL_KNOWN)) &&
	       s->offset >= (s->packed ? s->packed : level->end);
}

/* pg_pb_close() where no rule reads elements: the verifier need not walk what they take then. What is one all the same
 * is so because the numbers and the rules are not of one policy. */
static inline u32 pg_pb_close_plain(struct pg_stream *s)
{
	const struct pg_field *f;
	u32 i;

	if (s->field) {
		f = pg_get_field(s->field - 1);
		if (!f || f->flags & PG_FIELD_ELEMENTS)
			return PG_R_INTERNAL;
		s->field = 0; /* its value was passed over */
	}
	for (i = 0; i < PG_MAX_MESSAGE_DEPTH && pg_pb_ends(s); i++) {
		pg_pb_pop(s);
		if (s->level[pg_index(s->depth, PG_MAX_MESSAGE_DEPTH)].element)
			return PG_R_INTERNAL;
	}
	return PG_R_NONE;
}

/*
 * After a value: the element that it is ends, the next packed one begins; and so end the sub-messages that end here,
 * elements or not.
 */
PG_STEP int pg_pb_close(struct pg_stream *s)
{
	const struct pg_field *f;
	u32 i, k, element;

	if (!s)
		return PG_R_INTERNAL;
	if (!config.elements)
		return pg_pb_close_plain(s);
	for (i = 0; i <= PG_MAX_MESSAGE_DEPTH; i++) {
		element = s->field;
		if (!element) {
			if (!pg_pb_ends(s))
				break;
			pg_pb_pop(s);
			element = s->level[pg_index(s->depth, PG_MAX_MESSAGE_DEPTH)].element;
			if (!element)
				continue;
		}
		f = pg_get_field(element - 1);
		if (!f)
			return PG_R_INTERNAL;
		if (f->counter)
			pg_count_element(s, element);
		s->clause = 1;
		for (k = 0; k < PG_MAX_ELEMENT_TESTS; k += PG_ELEMENT_TESTS_A_CALL) {
			if (k >= f->tests)
				break;
			pg_program_some(s, f->test + k, f->tests - k);
		}
		if (!s->field)
			continue;
		if (s->packed && s->offset < s->packed)
			return pg_pb_packed(s, f);
		s->packed = 0;
		s->field = 0;
	}
	return PG_R_NONE;
}

/* May the message end here? */
static inline u32 pg_pb_finish(const struct pg_stream *s)
{
	if (s->pb != PG_PB_TAG || s->have || s->packed)
		return PG_R_PROTOBUF_LENGTH;
	if (s->depth)
		return pg_pb_in_group(s) ? PG_R_PROTOBUF_GROUP : PG_R_PROTOBUF_LENGTH;
	return PG_R_NONE;
}

#endif
