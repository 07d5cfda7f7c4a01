/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* From facts to a verdict: bits, rows, bounds, automata and clauses. No parsing here. */
#ifndef PG_POLICY_MATCH_H
#define PG_POLICY_MATCH_H

#include "env.h"

/* Applies a row of writes. Row 0 is none. */
PG_STEP int pg_row(struct pg_bits *bits, u32 row)
{
	const struct pg_op *op;
	u32 word;
	int i;

	if (!bits || !row)
		return 0;
	for (i = 0; i < PG_WORDS; i++) {
		op = pg_get_op(row + i);
		if (!op)
			return 0;
		word = pg_index(op->word, PG_WORDS);
		bits->word[word] = (bits->word[word] & ~op->mask) | op->value;
		if (op->flags & PG_OP_LAST)
			return 0;
	}
	return 0;
}

/* The row that a key falls on: the bound with the lowest key >= it (abi/tables.h). */
PG_STEP int pg_bound_row(u32 first, u32 count, u64 key)
{
	const struct pg_bound *b;
	u32 low = 0, high, middle;
	int i;

	if (!count)
		return 0;
	high = count - 1;
	for (i = 0; i < 20 && low < high; i++) {
		middle = (low + high) / 2;
		b = pg_get_bound(first + middle);
		if (!b)
			return 0;
		if (b->key < key)
			low = middle + 1;
		else
			high = middle;
	}
	b = pg_get_bound(first + low);
	if (!b)
		return 0;
	return b->key == key ? b->equal : b->below;
}

static inline u32 pg_automaton_start(u32 automaton)
{
	const struct pg_automaton *a = pg_get_automaton(automaton);

	return a ? a->start : 0;
}

/* The state after one byte. */
static inline u32 pg_automaton_step(const struct pg_automaton *a, const struct pg_classes *classes, u32 state, u8 byte)
{
	const u32 *next = pg_get_trans(a->trans + state + classes->of[byte]);

	return next ? *next : 0;
}

#define PG_EACH_BYTE 0x0101010101010101ull
#define PG_HIGH_BITS 0x8080808080808080ull

/* Has the word a byte like this? */
static inline int pg_has_byte(u64 word, u8 byte)
{
	word ^= byte * PG_EACH_BYTE;
	return ((word - PG_EACH_BYTE) & ~word & PG_HIGH_BITS) != 0;
}

/* Do none of eight bytes lead out of a state? */
static inline int pg_stays(u32 stay, u64 word)
{
	return (stay & 0xff) == PG_STAY_BUT && !pg_has_byte(word, stay >> 8) && !pg_has_byte(word, stay >> 16) &&
	       !pg_has_byte(word, stay >> 24);
}

#define PG_BLOCK 64 /* bytes */

/* The same of a block of bytes, and they are all ASCII. A letter that is not makes it say no too often. */
static inline int pg_block_stays(u32 stay, const u8 *bytes)
{
	const u64 most = ~PG_HIGH_BITS;
	u64 a = (stay >> 8 & 0xff) * PG_EACH_BYTE, b = (stay >> 16 & 0xff) * PG_EACH_BYTE;
	u64 c = (stay >> 24) * PG_EACH_BYTE, word, high = 0, others = PG_HIGH_BITS;
	u32 i;

	for (i = 0; i < PG_BLOCK; i += 8)
		high |= pg_eight(bytes + i);
	if (high & PG_HIGH_BITS)
		return 0;
	if ((stay & 0xff) != PG_STAY_BUT)
		return (stay & 0xff) == PG_STAY_ALWAYS;
	/* of an ASCII character less a letter, by bits, this sum has the high bit, unless it was the letter */
	for (i = 0; i < PG_BLOCK; i += 8)
		others &= (pg_eight(bytes + i) ^ a) + most;
	if (a == b && b == c)
		return others == PG_HIGH_BITS;
	for (i = 0; i < PG_BLOCK; i += 8) {
		word = pg_eight(bytes + i);
		others &= ((word ^ b) + most) & ((word ^ c) + most);
	}
	return others == PG_HIGH_BITS;
}

static inline u32 pg_automaton_stay(const struct pg_automaton *a, u32 state)
{
	const struct pg_out *out = pg_get_out(a->out + (state >> (a->stride_log2 & 31)));

	return out ? out->stay : 0;
}

static inline u32 pg_automaton_enter(const struct pg_automaton *a, u32 state)
{
	const struct pg_out *out;

	if (state < a->first_out)
		return 0;
	out = pg_get_out(a->out + (state >> (a->stride_log2 & 31)));
	return out ? out->enter : 0;
}

/* The row (or the answer, for the engine's own automata) of a value that ends in `state`. */
static inline u32 pg_automaton_end(u32 automaton, u32 state)
{
	const struct pg_automaton *a = pg_get_automaton(automaton);
	const struct pg_out *out;

	if (!a)
		return 0;
	out = pg_get_out(a->out + (state >> (a->stride_log2 & 31)));
	return out ? out->end : 0;
}

#define PG_TESTS_A_CALL 64
#define PG_MATCH_NONE (-1)

/* Up to PG_TESTS_A_CALL tests from `first` on, except w->skip's; w->clause carries an unfinished clause over. Returns
 * the index of the test that completed a clause that holds, or PG_MATCH_NONE. */
PG_STEP int pg_match_some(struct pg_bits *bits, struct pg_work *w, u32 first, u32 count)
{
	const struct pg_test *t;
	u32 i;

	if (!bits || !w)
		return PG_MATCH_NONE;
	for (i = 0; i < PG_TESTS_A_CALL; i++) {
		if (i >= count)
			break;
		t = pg_get_test(first + i);
		if (!t)
			break;
		if (t->rule == w->skip)
			continue;
		if ((bits->word[pg_index(t->word, PG_WORDS)] & t->mask) != t->value)
			w->clause = 0;
		if (!(t->flags & PG_TEST_LAST))
			continue;
		if (w->clause)
			return (int)(first + i);
		w->clause = 1;
	}
	return PG_MATCH_NONE;
}

/* The first test from `first` on, below `end`, that completes a clause that holds. */
PG_STEP int pg_match(struct pg_bits *bits, struct pg_work *w, u32 first, u32 end)
{
	int hit = PG_MATCH_NONE;
	u32 i;

	if (!bits || !w)
		return PG_MATCH_NONE;
	w->clause = 1;
	for (i = 0; i < PG_MAX_CLAUSE_TESTS / PG_TESTS_A_CALL; i++) {
		if (first >= end)
			break;
		hit = pg_match_some(bits, w, first, end - first);
		if (hit != PG_MATCH_NONE)
			break;
		first += PG_TESTS_A_CALL;
	}
	return hit;
}

#endif
