// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#include "host/engine.h"
#include "pipeline.h"

struct pg_host *pg_host_new(const struct pg_tables *tables, const u8 remote[16], u16 remote_port)
{
	struct pg_host *host = calloc(1, sizeof(*host));

	if (!host)
		return 0;
	host->tables = *tables;
	host->conn.id = 1;
	host->conn.cookie = 1;
	host->conn.remote_port = remote_port;
	memcpy(host->conn.remote, remote, 16);
	pg_here = host;
	pg_connection_start(&host->conn);
	return host;
}

void pg_host_free(struct pg_host *host)
{
	struct pg_host_stream *s, *next;

	for (s = host->streams; s; s = next) {
		next = s->next;
		free(s);
	}
	if (!host->borrowed)
		pg_host_buckets_free(host->buckets);
	free(host->events);
	free(host);
}

struct pg_host_buckets *pg_host_buckets_new(const struct pg_tables *tables)
{
	struct pg_host_buckets *all = calloc(1, sizeof(*all));

	if (!all)
		return 0;
	all->set_count = PG_BUCKET_SETS;
	all->own_count = tables->rate_count;
	all->set = calloc(PG_BUCKET_SETS, sizeof(*all->set));
	all->own = calloc(tables->rate_count ? tables->rate_count : 1, sizeof(*all->own));
	if (all->set && all->own)
		return all;
	pg_host_buckets_free(all);
	return 0;
}

void pg_host_buckets_free(struct pg_host_buckets *all)
{
	if (!all)
		return;
	free(all->set);
	free(all->own);
	free(all);
}

void pg_host_share(struct pg_host *host, struct pg_host_buckets *all)
{
	if (!host->borrowed)
		pg_host_buckets_free(host->buckets);
	host->buckets = all;
	host->borrowed = 1;
}

void pg_host_time(struct pg_host *host, u64 now)
{
	host->now = now;
}

static void pg_host_chunk(struct pg_work *w, u32 length)
{
	w->source = PG_SRC_PACKET;
	w->base = 0;
	w->end = length;
	w->pos = 0;
	w->window_at = 0;
	w->window_size = 0;
	w->frame_at = PG_NO_FRAME;
	w->path_at = PG_NO_FRAME;
	w->ended = 0;
}

static void pg_host_load(struct pg_work *w, const u8 *bytes)
{
	u32 n = pg_window_next(w);

	memcpy(w->window, bytes + w->pos, n);
	w->window_at = w->pos;
	w->window_size = n;
}

int pg_host_request(struct pg_host *host, const u8 *bytes, u32 length)
{
	struct pg_work *w = &host->work;
	int outcome = PG_GO;

	pg_here = host;
	host->event_count = 0;
	if (host->held_outcome == PG_BLIND)
		return PG_BLIND;
	if (host->held_outcome)
		return host->held_outcome;
	host->conn.delivered = host->conn.complete;
	host->conn.run++;
	pg_host_chunk(w, length);
	while (w->pos < w->end && outcome == PG_GO) {
		if (!host->conn.passing && !pg_ready(w))
			pg_host_load(w, bytes);
		outcome = pg_request_step(&host->conn, w);
	}
	host->held_outcome = outcome;
	if (outcome == PG_DENIED)
		pg_emit(&host->conn, w, PG_EV_DECISION, PG_V_DENY);
	if (outcome == PG_CUT)
		pg_emit(&host->conn, w, PG_EV_CONNECTION, PG_V_DENY);
	return outcome;
}

int pg_host_response(struct pg_host *host, const u8 *bytes, u32 length)
{
	struct pg_work *w = &host->response_work;
	int outcome = PG_GO;

	pg_here = host;
	host->event_count = 0;
	if (host->response_outcome || host->held_outcome == PG_BLIND)
		return host->response_outcome ? host->response_outcome : PG_BLIND;
	pg_host_chunk(w, length);
	w->half = config.responses ? PG_RESPONSE_HALF : 0;
	while (w->pos < w->end && outcome == PG_GO) {
		if (!pg_ready(w))
			pg_host_load(w, bytes);
		outcome = pg_response_step(&host->conn, w);
	}
	if (!config.responses)
		return outcome;
	host->response_outcome = outcome;
	if (outcome == PG_DENIED || outcome == PG_CUT) {
		host->held_outcome = outcome;
		pg_emit(&host->conn, w, outcome == PG_DENIED ? PG_EV_DECISION : PG_EV_CONNECTION, PG_V_DENY);
	}
	return outcome;
}

u32 pg_host_events(struct pg_host *host, const struct pg_event **events)
{
	*events = host->events;
	return host->event_count;
}

const struct pg_conn *pg_host_conn(const struct pg_host *host)
{
	return &host->conn;
}

u32 pg_host_streams(const struct pg_host *host)
{
	return host->conn.live;
}

const struct pg_stream *pg_host_stream(struct pg_host *host, u32 stream)
{
	pg_here = host;
	return pg_stream_of(&host->conn, stream);
}

int pg_host_match(struct pg_host *host, const struct pg_bits *bits, u32 first, u32 end)
{
	struct pg_bits copy = *bits;

	pg_here = host;
	host->work.skip = PG_NO_RULE;
	return pg_match(&copy, &host->work, first, end);
}

u64 pg_host_counter(const struct pg_host *host, u32 counter)
{
	return counter < PG_COUNTERS ? host->counters[counter] : 0;
}
