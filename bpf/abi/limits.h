/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every limit of the enforcer, said once: name, number, why, and what happens
 * at the edge. `protocg probe` prints this list.
 */
#ifndef PG_ABI_LIMITS_H
#define PG_ABI_LIMITS_H

/* L(NAME, number, "why this number", "what happens past it") */
#define PG_LIMITS(L)                                                                                                   \
	L(CONNECTIONS, 16384, "one state of about 8 KiB each, made when the connection is established",                \
	  "a further connection is reset with the cause too_large")                                                    \
	L(STREAMS, 65536,                                                                                              \
	  "live RPCs over all connections, about 1.4 KiB each; one takes two where rules read responses",              \
	  "a further RPC resets its connection with the cause too_large")                                              \
	L(BERTHS, 4096,                                                                                                \
	  "of these RPCs, those whose state is there before they come, 128 requests of a connection and as many "      \
	  "responses: 5.6 MiB",                                                                                        \
	  "a further RPC's state is made and freed with it, which takes the kernel a few microseconds")                \
	L(PATH_BYTES, 1024, "the longest :path that is told apart", "a longer one is denied as too_large")             \
	L(HEADER_BLOCK_BYTES, 65536, "encoded bytes of one header block, CONTINUATION frames included",                \
	  "a longer block resets its connection with the cause too_large")                                             \
	L(HEADER_FIELDS, 1024, "fields in one header block",                                                           \
	  "more fields reset the connection with the cause too_large")                                                 \
	L(DYNAMIC_ENTRIES, 128, "HPACK's default table of 4096 bytes holds at most 4096/32 entries",                   \
	  "a larger table that fills up with more entries resets its connection with the cause too_large")             \
	L(DYNAMIC_TABLE_BYTES, 65536, "the largest dynamic table size update that is followed",                        \
	  "a larger update resets its connection with the cause too_large")                                            \
	L(MESSAGE_DEPTH, 32, "open sub-messages and groups while a message is read",                                   \
	  "a deeper message is denied as too_large where a rule reads its fields")                                     \
	L(ONCE_WORDS, 32, "64-bit words for which sub-messages and oneofs have come while a message is read",          \
	  "a message that needs more is denied as too_large; a type that needs more than half is a compile error")     \
	L(FIELDS, 262144, "fields of all messages that rules read, and of all messages in these",                      \
	  "more are a compile error")                                                                                  \
	L(FIELD_PATH, 8, "names in request.a.b.c", "a longer path is a compile error")                                 \
	L(SCOPE_WORDS, 16, "64-bit words of predicate results in one scope: 1,024 predicates",                         \
	  "more predicates on one method's messages, or on metadata and peer together, are a compile error")           \
	L(FIELD_AUTOMATA, 4, "automata that run over one string field at the same time",                               \
	  "predicates that need more are a compile error")                                                             \
	L(METADATA_AUTOMATA, 2, "automata that run over one metadata value at the same time",                          \
	  "predicates that need more are a compile error")                                                             \
	L(METADATA_KEYS, 256, "metadata keys that one policy reads", "more keys are a compile error")                  \
	L(AUTOMATON_BYTES, 65536, "table of one `matches` pattern", "a larger automaton is a compile error")           \
	L(UNION_BYTES, 4194304, "table of all predicates of one field together", "a larger one is a compile error")    \
	L(METHODS, 65536, "methods and prefixes that rules name or protos describe", "more are a compile error")       \
	L(RULES, 16384, "rules in one policy", "more are a compile error")                                             \
	L(CLAUSE_TESTS, 4096, "tests of one method's rules in disjunctive normal form",                                \
	  "conditions that expand to more are a compile error")                                                        \
	L(ELEMENT_TESTS, 256, "tests at the end of each element of one repeated field or map",                         \
	  "conditions on one field's elements that need more are a compile error")                                     \
	L(MAP_KEYS, 32, "keys that are remembered while a message is read, to count a map's distinct ones",            \
	  "sizes of maps that need more, together, are a compile error")                                               \
	L(PEER_TESTS, 256, "address blocks and addresses that rules compare peer.ip with", "more are a compile error") \
	L(HELD_SEGMENTS, 256, "segments of one connection that wait for a hole to fill",                               \
	  "further ones are dropped, and TCP sends them again")                                                        \
	L(HELD_LARGE, 192, "slots of 64 KiB for waiting segments, shared by all connections: 12 MiB",                  \
	  "a segment that finds none is dropped, and TCP sends it again")                                              \
	L(HELD_SMALL, 3072, "slots of 2 KiB for waiting segments, shared by all connections: 6 MiB",                   \
	  "a segment that finds none takes a large slot, or is dropped, and TCP sends it again")                       \
	L(HELD_SHARE, 1536, "slots that the connections of one address, or IPv6 /64, may have; a large one counts 16", \
	  "further segments are dropped, and TCP sends them again")                                                    \
	L(MEND_LARGE, 64, "slots of 64 KiB for copies of denied segments alone, until these are sent: 4 MiB",          \
	  "a copy that finds none takes a waiting segment's; without one the denial ends its connection")              \
	L(MEND_SMALL, 1024, "slots of 2 KiB for copies of denied segments alone, until these are sent: 2 MiB",         \
	  "a copy that finds none takes a large slot")                                                                 \
	L(HELD_BYTES, 65536, "the longest segment that is held", "a longer one ahead of a hole is dropped")            \
	L(HOLES, 64, "dropped segments of one connection that wait to be mended; a power of two",                      \
	  "past half of them, further segments are dropped, and TCP sends them again")                                 \
	L(MENDED_STREAMS, 128, "streams of one connection whose mending is remembered; a power of two",                \
	  "late frames of one before reach the server, where no handler is behind them")                               \
	L(RESET_STREAMS, 128,                                                                                          \
	  "streams of one connection whose responses are still judged after the client has reset them",                \
	  "DATA of the server on one before resets the connection with the cause too_large")                           \
	L(LATE_ENDS, 16,                                                                                               \
	  "streams of one connection that the server has ended while the client's side was locked; a power of two",    \
	  "a further one's place is free when its connection ends")                                                    \
	L(RESETS, 4, "RST_STREAM frames in the copy of one segment: servers count them (CVE-2023-44487)",              \
	  "further denied messages of unary calls lose their data instead")                                            \
	L(WALKED, 16384,                                                                                               \
	  "frames that are looked through for those of denied RPCs, in one segment and what waited for "               \
	  "it: about 130 ns each",                                                                                     \
	  "a denial past it ends its connection")                                                                      \
	L(BUCKETS, 65536, "token buckets of [[limit]] rules, 48 bytes each, in sets of 8: 3.2 MiB",                    \
	  "a key whose set is full of buckets in use shares its limit's own bucket: no call passes without a token")   \
	L(BUCKET_KEYS, 8, "metadata keys that the limits of one policy count by; a power of two",                      \
	  "more are a compile error")                                                                                  \
	L(METHOD_LIMITS, 32, "limits that apply to one method", "more are a compile error")                            \
	L(RATE, 1000000, "tokens that a limit may give in its second, minute or hour", "more is a compile error")      \
	L(BURST, 1000000, "tokens that a bucket may hold", "more is a compile error")                                  \
	L(PATH_TEXTS, 1024, "paths that no rule names, kept for events; the least recently used goes first",           \
	  "the event then says nothing of the method")                                                                 \
	L(GUARD_CONNECT, 64, "entries of [guard] connect, walked at each connect", "more are a compile error")         \
	L(GUARD_PLACES, 1024, "cgroups that one agent guards", "more are refused at the start")                        \
	L(GUARD_LIBRARIES, 4096, "names of files with TLS code that one guard knows, two a file below an overlay",     \
	  "a further library is not hooked, so its TLS is refused")                                                    \
	L(GUARD_DEPTH, 32, "levels of the cgroup tree that the guard looks at",                                        \
	  "a cgroup further down is refused at the start; what it holds may be deeper")                                \
	L(TLS_PLACES, 64, "cgroups whose TLS one agent reads", "more are refused at the start")                        \
	L(TLS_SESSIONS, 16384, "TLS connections that hooks follow, about 10 KiB each",                                 \
	  "a further connection is cut with the cause tls")                                                            \
	L(TLS_OVER, 65536, "TLS objects whose connection is gone, and which may have some of its bytes still",         \
	  "what is known of a further one stays, and takes the place of a connection")                                 \
	L(TLS_LIBRARIES, 1024, "files with a TLS library that are hooked", "a further one is not hooked")              \
	L(EVENT_BYTES, 4194304, "ring buffer from the kernel to the agent",                                            \
	  "events that find no room are lost, counted and said; verdicts are not affected")

#define PG_LIMIT_ENUM(name, number, why, edge) PG_MAX_##name = number,
enum pg_limit { PG_LIMITS(PG_LIMIT_ENUM) };

#endif
