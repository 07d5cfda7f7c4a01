/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* TLS records (RFC 8446, section 5.1), as far as their heads go: handshakes pass, application data is told. */
#ifndef PG_PROTO_TLS_H
#define PG_PROTO_TLS_H

#include "source/work.h"

enum pg_tls_content {
	PG_TLS_CHANGE_CIPHER_SPEC = 20,
	PG_TLS_ALERT = 21,
	PG_TLS_HANDSHAKE = 22,
	PG_TLS_DATA = 23,
};

#define PG_TLS_HEAD_BYTES 5
#define PG_TLS_CLIENT_HELLO 1		   /* what a handshake's message begins with */
#define PG_TLS_RECORD_BYTES (16384 + 2048) /* with room for what encryption adds (RFC 5246, section 6.2.3) */

/* Some bytes of the records, at most `most`. `data`: application data begins here. Returns PG_R_TLS for what is no TLS.
 */
static inline u32 pg_tls_record(struct pg_h2 *h, struct pg_work *w, u32 most, u32 *data)
{
	u8 byte;

	if (h->left) {
		h->left -= pg_pass(w, h->left < most ? h->left : most);
		return PG_R_NONE;
	}
	if (!pg_ready(w))
		return PG_R_NONE;
	byte = pg_peek(w);
	if (!h->have && byte == PG_TLS_DATA) {
		*data = 1;
		return PG_R_NONE;
	}
	if (!h->have && (byte < PG_TLS_CHANGE_CIPHER_SPEC || byte > PG_TLS_HANDSHAKE))
		return PG_R_TLS;
	h->head[pg_index(h->have, 16)] = byte;
	h->have++;
	w->pos++;
	if (h->have < PG_TLS_HEAD_BYTES)
		return PG_R_NONE;
	h->have = 0;
	h->left = (u32)h->head[3] << 8 | h->head[4];
	return h->left > PG_TLS_RECORD_BYTES ? PG_R_TLS : PG_R_NONE;
}

#endif
