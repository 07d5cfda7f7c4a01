/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * HTTP/2 framing (RFC 9113): frame heads, what each type demands, padding and priority. It knows nothing of streams'
 * contents. Both directions use it; only a client sends the preface.
 *
 *  +-----------------------------------------------+
 *  |                 Length (24)                   |
 *  +---------------+---------------+---------------+
 *  |   Type (8)    |   Flags (8)   |
 *  +-+-------------+---------------+-------------------------------+
 *  |R|                 Stream Identifier (31)                      |
 *  +=+=============================================================+
 */
#ifndef PG_PROTO_HTTP2_H
#define PG_PROTO_HTTP2_H

#include "source/work.h"

enum pg_frame {
	PG_F_DATA = 0,
	PG_F_HEADERS = 1,
	PG_F_PRIORITY = 2,
	PG_F_RST_STREAM = 3,
	PG_F_SETTINGS = 4,
	PG_F_PUSH_PROMISE = 5,
	PG_F_PING = 6,
	PG_F_GOAWAY = 7,
	PG_F_WINDOW_UPDATE = 8,
	PG_F_CONTINUATION = 9,
};

#define PG_FLAG_END_STREAM 0x01
#define PG_FLAG_ACK 0x01
#define PG_FLAG_END_HEADERS 0x04
#define PG_FLAG_PADDED 0x08
#define PG_FLAG_PRIORITY 0x20

#define PG_HEAD_BYTES 9
#define PG_PREFACE_BYTES 24
#define PG_SETTING_BYTES 6
#define PG_SETTINGS_HEADER_TABLE_SIZE 1

/* "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" (RFC 9113, section 3.4) */
PG_CONST u8 pg_preface[PG_PREFACE_BYTES + 8] = {'P', 'R', 'I',	' ',  '*',  ' ',  'H', 'T', 'T',  'P',	'/',  '2',
						'.', '0', '\r', '\n', '\r', '\n', 'S', 'M', '\r', '\n', '\r', '\n'};

/* Of the current frame's payload, padding included. */
static inline u32 pg_h2_length(const struct pg_h2 *h)
{
	return (u32)h->head[0] << 16 | (u32)h->head[1] << 8 | h->head[2];
}

/* The client's preface. Returns PG_R_NONE while it fits, else what comes instead. */
static inline u32 pg_h2_preface(struct pg_h2 *h, struct pg_work *w)
{
	u8 byte;
	int i;

	for (i = 0; i < PG_PREFACE_BYTES; i++) {
		if (h->have >= PG_PREFACE_BYTES || !pg_ready(w))
			break;
		byte = pg_peek(w);
		if (byte != pg_preface[pg_index(h->have, 32)])
			return h->have == 0 && byte == 0x16 ? PG_R_TLS : PG_R_NOT_HTTP2;
		h->have++;
		w->pos++;
	}
	if (h->have == PG_PREFACE_BYTES) {
		h->state = PG_H2_HEAD;
		h->have = 0;
	}
	return PG_R_NONE;
}

/* What a frame's type demands of its stream and length (RFC 9113, section 6). */
static inline u32 pg_h2_check(const struct pg_h2 *h, int from_client)
{
	u32 length = h->left;

	/* Between HEADERS and its last CONTINUATION nothing else may stand (section 6.10). */
	if (h->block != (h->type == PG_F_CONTINUATION))
		return PG_R_FRAME_ORDER;
	switch (h->type) {
	case PG_F_HEADERS:
		/* C-core reads the pad length and the padding as parts of the header block: for it, it is another one.
		 */
		if (from_client && h->flags & PG_FLAG_PADDED)
			return PG_R_PADDED_HEADERS;
		return h->stream ? PG_R_NONE : PG_R_FRAME_STREAM;
	case PG_F_DATA:
	case PG_F_CONTINUATION:
		return h->stream ? PG_R_NONE : PG_R_FRAME_STREAM;
	case PG_F_PRIORITY:
		if (!h->stream)
			return PG_R_FRAME_STREAM;
		return length == 5 ? PG_R_NONE : PG_R_FRAME_SIZE;
	case PG_F_RST_STREAM:
		if (!h->stream)
			return PG_R_FRAME_STREAM;
		return length == 4 ? PG_R_NONE : PG_R_FRAME_SIZE;
	case PG_F_SETTINGS:
		if (h->stream)
			return PG_R_FRAME_STREAM;
		if (h->flags & PG_FLAG_ACK)
			return length ? PG_R_FRAME_SIZE : PG_R_NONE;
		return length % PG_SETTING_BYTES ? PG_R_FRAME_SIZE : PG_R_NONE;
	case PG_F_PUSH_PROMISE:
		return from_client ? PG_R_FRAME_ORDER : PG_R_NONE;
	case PG_F_PING:
		if (h->stream)
			return PG_R_FRAME_STREAM;
		return length == 8 ? PG_R_NONE : PG_R_FRAME_SIZE;
	case PG_F_GOAWAY:
		if (h->stream)
			return PG_R_FRAME_STREAM;
		return length >= 8 ? PG_R_NONE : PG_R_FRAME_SIZE;
	case PG_F_WINDOW_UPDATE:
		return length == 4 ? PG_R_NONE : PG_R_FRAME_SIZE;
	}
	return PG_R_NONE; /* unknown types are to be ignored (section 4.1) */
}

/* The frame's payload starts: what state reads it. */
static inline void pg_h2_body(struct pg_h2 *h)
{
	h->have = 0;
	switch (h->type) {
	case PG_F_DATA:
		h->state = PG_H2_DATA;
		break;
	case PG_F_HEADERS:
	case PG_F_CONTINUATION:
		h->state = PG_H2_FRAGMENT;
		break;
	case PG_F_SETTINGS:
		h->state = PG_H2_SETTING;
		break;
	default:
		h->state = PG_H2_SKIP;
	}
}

/* Some bytes of a frame head. Returns whether it is whole. */
static inline int pg_h2_head_some(struct pg_h2 *h, struct pg_work *w)
{
	int i;

	for (i = 0; i < PG_HEAD_BYTES; i++) {
		if (h->have >= PG_HEAD_BYTES || !pg_ready(w))
			break;
		h->head[pg_index(h->have, 16)] = pg_peek(w);
		h->have++;
		w->pos++;
	}
	return h->have >= PG_HEAD_BYTES;
}

/* A frame head, or as much of it as there is. `*whole` is set to 1 with its last byte; then the frame is checked. A
 * call would cost more than what it does. */
static inline __attribute__((always_inline)) u32 pg_h2_head(struct pg_h2 *h, struct pg_work *w, int from_client,
							    u32 *whole)
{
	const u8 *here = pg_ahead(w, 0);
	u32 reason, stream;

	if (!h->have)
		w->frame_at = w->pos;
	if (!h->have && pg_ready(w) >= PG_HEAD_BYTES) {
		pg_eight_copy(h->head, here);
		h->head[8] = here[8];
		w->pos += PG_HEAD_BYTES;
	} else if (!pg_h2_head_some(h, w)) {
		return PG_R_NONE;
	}
	h->left = pg_h2_length(h);
	h->type = h->head[3];
	h->flags = h->head[4];
	stream = (u32)(h->head[5] & 0x7f) << 24 | (u32)h->head[6] << 16 | (u32)h->head[7] << 8 | h->head[8];
	if (h->type == PG_F_CONTINUATION && h->stream != stream)
		return PG_R_FRAME_ORDER;
	h->stream = stream;
	h->pad = 0;
	reason = pg_h2_check(h, from_client);
	if (reason)
		return reason;
	pg_h2_body(h);
	if (h->type == PG_F_DATA && h->flags & PG_FLAG_PADDED) {
		if (!h->left)
			return PG_R_FRAME_SIZE;
		h->state = PG_H2_PAD_LENGTH;
	} else if (h->type == PG_F_HEADERS && h->flags & PG_FLAG_PRIORITY) {
		if (h->left < 5)
			return PG_R_FRAME_SIZE;
		h->state = PG_H2_PRIORITY;
	}
	if (h->type == PG_F_HEADERS)
		h->block_flags = h->flags;
	*whole = 1;
	return PG_R_NONE;
}

/* Pad Length of DATA (section 6.1). */
static inline u32 pg_h2_pad_length(struct pg_h2 *h, struct pg_work *w)
{
	h->pad = pg_peek(w);
	w->pos++;
	h->left--;
	if (h->pad > h->left)
		return PG_R_PADDING;
	h->left -= h->pad;
	pg_h2_body(h);
	return PG_R_NONE;
}

static inline void pg_h2_priority(struct pg_h2 *h, struct pg_work *w)
{
	u32 n = pg_pass(w, 5 - h->have);

	h->have += n;
	h->left -= n;
	if (h->have == 5)
		pg_h2_body(h);
}

/* Payload and padding that nobody reads. */
static inline void pg_h2_skip(struct pg_h2 *h, struct pg_work *w)
{
	h->left -= pg_pass(w, h->left);
}

static inline void pg_h2_padding(struct pg_h2 *h, struct pg_work *w)
{
	h->pad -= pg_pass(w, h->pad);
}

/* One SETTINGS parameter, or as much of it as there is: `*whole` is set to 1 with its last byte. */
static inline void pg_h2_setting(struct pg_h2 *h, struct pg_work *w, u32 *whole)
{
	int i;

	for (i = 0; i < PG_SETTING_BYTES; i++) {
		if (h->have >= PG_SETTING_BYTES || !pg_ready(w) || !h->left)
			break;
		h->head[pg_index(h->have, 8)] = pg_peek(w);
		h->have++;
		h->left--;
		w->pos++;
	}
	if (h->have < PG_SETTING_BYTES)
		return;
	h->have = 0;
	*whole = 1;
}

static inline u32 pg_h2_setting_id(const struct pg_h2 *h)
{
	return (u32)h->head[0] << 8 | h->head[1];
}

static inline u32 pg_h2_setting_value(const struct pg_h2 *h)
{
	return (u32)h->head[2] << 24 | (u32)h->head[3] << 16 | (u32)h->head[4] << 8 | h->head[5];
}

#endif
