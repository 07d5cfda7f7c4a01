/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Header blocks that come again. Clients send the same few for each call: where the last one's bytes come once more,
 * what they say is known. A block is compared whole, so nothing is guessed.
 */
#ifndef PG_KEPT_H
#define PG_KEPT_H

#include "proto/http2.h"

_Static_assert(PG_WINDOW_HEADS >= PG_HEAD_BYTES + PG_KEPT_BYTES, "the least window has a block that may be kept");

/* Does the frame that begins hold a whole block, in the window, that may be kept? */
static inline int pg_kept_fits(const struct pg_h2 *h, const struct pg_work *w)
{
	return h->state == PG_H2_FRAGMENT && h->flags & PG_FLAG_END_HEADERS && h->left && h->left <= PG_KEPT_BYTES &&
	       h->left <= pg_ready(w);
}

/* Is it the last one again? Then it is read already. */
PG_STEP int pg_kept_again(struct pg_conn *c, struct pg_work *w)
{
	struct pg_h2 *h;
	u32 i;

	if (!c || !w)
		return 0;
	h = &c->request;
	if (c->kept.length != h->left || !pg_kept_fits(h, w))
		return 0;
	for (i = 0; i < PG_KEPT_BYTES; i += 8) {
		if (i >= h->left)
			break;
		if (pg_eight_differ(pg_ahead(w, i), &c->kept.bytes[i], h->left - i))
			return 0;
	}
	w->path_at = c->kept.path_at == PG_NO_FRAME ? PG_NO_FRAME : w->pos + c->kept.path_at;
	w->path_form = c->kept.path_form;
	w->pos += h->left;
	h->left = 0;
	return 1;
}

/* A block begins that is to be read: its bytes are copied if it may come again. */
PG_STEP int pg_kept_start(struct pg_conn *c, const struct pg_work *w)
{
	u32 i;

	if (!c || !w)
		return 0;
	c->kept.length = 0;
	c->kept.reading = 0;
	if (!pg_kept_fits(&c->request, w))
		return 0;
	c->kept.reading = c->request.left;
	/* the last eight may be more than the block's: these make no difference */
	for (i = 0; i < PG_KEPT_BYTES; i += 8) {
		if (i >= c->request.left)
			break;
		pg_eight_copy(&c->kept.bytes[i], pg_ahead(w, i));
	}
	return 0;
}

/* It is read. */
static inline void pg_kept_end(struct pg_conn *c, const struct pg_work *w)
{
	struct pg_kept *k = &c->kept;

	if (!k->reading || c->block.reason || c->block.text || c->hpack.changes)
		return;
	k->length = k->reading;
	k->path_at = w->path_at == PG_NO_FRAME ? PG_NO_FRAME : w->path_at - (w->pos - k->reading);
	k->path_form = w->path_form;
}

#endif
