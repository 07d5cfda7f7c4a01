/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* All that C and Rust both read; bindgen makes `crate::abi` of it. */
#include "limits.h"
#include "reasons.h"
#include "tables.h"
#include "state.h"
#include "events.h"
#include "guard.h"
#include "tls.h"
