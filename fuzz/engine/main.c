// SPDX-License-Identifier: Apache-2.0 OR MIT
/* libFuzzer's main calls this; the rest is in Rust. */
#include <stddef.h>
#include <stdint.h>

int pg_fuzz_one(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	return pg_fuzz_one(data, size);
}
