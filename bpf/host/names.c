/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The names and texts of the ABI's lists, for the agent: bindgen sees numbers only. */
#include <stddef.h>

#include "abi/abi.h"

struct pg_name_row {
	const char *name;
	const char *text;
	const char *edge; /* limits: what happens past it; ways: what is open without their programs */
	u64 number;	  /* limits: the number; reasons: the cause; ways: the switch by default */
};

#define REASON_ROW(name, cause, text, help) {text, help, NULL, PG_CAUSE_##cause},
const struct pg_name_row pg_reason_rows[] = {PG_REASONS(REASON_ROW)};
const size_t pg_reason_row_count = sizeof(pg_reason_rows) / sizeof(pg_reason_rows[0]);

#define CAUSE_ROW(name, text) {text, NULL, NULL, PG_CAUSE_##name},
const struct pg_name_row pg_cause_rows[] = {PG_CAUSES(CAUSE_ROW)};
const size_t pg_cause_row_count = sizeof(pg_cause_rows) / sizeof(pg_cause_rows[0]);

#define LIMIT_ROW(name, number, why, edge) {#name, why, edge, number},
const struct pg_name_row pg_limit_rows[] = {PG_LIMITS(LIMIT_ROW)};
const size_t pg_limit_row_count = sizeof(pg_limit_rows) / sizeof(pg_limit_rows[0]);

#define COUNT_ROW(name, text, help) {text, help, NULL, PG_N_##name},
const struct pg_name_row pg_count_rows[] = {PG_COUNTS(COUNT_ROW)};
const size_t pg_count_row_count = sizeof(pg_count_rows) / sizeof(pg_count_rows[0]);

#define WAY_ROW(name, text, default_, what, open) {text, what, open, PG_GUARD_##default_},
const struct pg_name_row pg_way_rows[] = {PG_WAYS(WAY_ROW)};
const size_t pg_way_row_count = sizeof(pg_way_rows) / sizeof(pg_way_rows[0]);

#define RUNG_ROW(name, text, what) {text, what, NULL, PG_RUNG_##name},
const struct pg_name_row pg_rung_rows[] = {PG_RUNGS(RUNG_ROW)};
const size_t pg_rung_row_count = sizeof(pg_rung_rows) / sizeof(pg_rung_rows[0]);
