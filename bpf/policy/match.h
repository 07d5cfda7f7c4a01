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

static inline u32 pg_automaton_stay(const struct pg_automaton *a, u32 state)
{
	const struct pg_out *out = pg_get_out(a->out + (state >> (a->stride_log2 & 31)));

	return out ? out->stay : 0;
}

#define PG_LETTERS_HIGH 0x80808000u
#define PG_BLOCK 64	    /* bytes */
#define PG_BLOCKS_A_CALL 16 /* at most */

/* Of an ASCII character less a letter, by bits, the sum with this has the high bit, unless it was the letter; and eight
 * such sums do not carry into each other. */
#define PG_NO_LETTER (~PG_HIGH_BITS)

/* Is a block of bytes all ASCII, and none of it one of so many letters? For one that is not ASCII it says no too often.
 */
static __always_inline int pg_block_without(const u8 *bytes, u32 letters, u64 a, u64 b, u64 c)
{
	u64 word, high = 0, others = PG_HIGH_BITS;
	u32 i;

	for (i = 0; i < PG_BLOCK; i += 8) {
		word = pg_eight(bytes + i);
		high |= word;
		if (letters > 0)
			others &= (word ^ a) + PG_NO_LETTER;
		if (letters > 1)
			others &= ((word ^ b) + PG_NO_LETTER) & ((word ^ c) + PG_NO_LETTER);
	}
	return !(high & PG_HIGH_BITS) && others == PG_HIGH_BITS;
}

/* How many of the next `n` bytes of the window are such blocks. */
static __always_inline u32 pg_blocks_without(const struct pg_work *w, u32 n, u32 letters, u64 a, u64 b, u64 c)
{
	u32 i;

	for (i = 0; i < PG_BLOCK * PG_BLOCKS_A_CALL; i += PG_BLOCK)
		if (i + PG_BLOCK > n || !pg_block_without(pg_ahead(w, i), letters, a, b, c))
			break;
	return i;
}

/* How many of the next `n` bytes of the window, in blocks, are ASCII that does not lead out of a state. */
PG_STEP int pg_blocks(const struct pg_work *w, u32 n, u32 stay)
{
	u64 a = (stay >> 8 & 0xff) * PG_EACH_BYTE, b = (stay >> 16 & 0xff) * PG_EACH_BYTE;
	u64 c = (stay >> 24) * PG_EACH_BYTE;

	if (!w || !stay)
		return 0;
	/* what leads out is not ASCII */
	if ((stay & PG_LETTERS_HIGH) == PG_LETTERS_HIGH)
		stay = PG_STAY_ALWAYS;
	if ((stay & 0xff) == PG_STAY_ALWAYS)
		return pg_blocks_without(w, n, 0, a, b, c);
	if (a == b && b == c)
		return pg_blocks_without(w, n, 1, a, b, c);
	return pg_blocks_without(w, n, 3, a, b, c);
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

#define PG_TESTS_A_CALL 32
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
