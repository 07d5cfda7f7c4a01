/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Why something was denied, cut or dropped, when no rule did it: one list.
 * A reason belongs to a cause, the name that policies know ([uninspectable]);
 * PG_CAUSE_ALWAYS reasons have no switch: letting them pass would be a bypass.
 */
#ifndef PG_ABI_REASONS_H
#define PG_ABI_REASONS_H

/* C(NAME, "name in policies and events") */
#define PG_CAUSES(C)                        \
	C(ALWAYS, "tcp")                    \
	C(COMPRESSED, "compressed")         \
	C(UNKNOWN_METHOD, "unknown_method") \
	C(MALFORMED, "malformed")           \
	C(TOO_LARGE, "too_large")           \
	C(NOT_HTTP2, "not_http2")           \
	C(TLS, "tls")                       \
	C(MIDSTREAM, "midstream")           \
	C(AMBIGUOUS, "ambiguous")

#define PG_CAUSE_ENUM(name, text) PG_CAUSE_##name,
enum pg_cause { PG_CAUSES(PG_CAUSE_ENUM) PG_CAUSE_COUNT };

/* R(NAME, CAUSE, "name", "text") */
#define PG_REASONS(R)                                                                                                 \
	R(NONE, ALWAYS, "none", "nothing is wrong")                                                                   \
	R(COMPRESSED, COMPRESSED, "compressed", "a rule needs the fields of a compressed message")                    \
	R(UNKNOWN_METHOD, UNKNOWN_METHOD, "unknown_method",                                                           \
	  "a rule on messages covers the method and no proto describes it")                                           \
	R(NOT_HTTP2, NOT_HTTP2, "not_http2", "the connection does not open with the HTTP/2 preface")                  \
	R(TLS, TLS, "tls", "the connection opens with a TLS record")                                                  \
	R(TLS_CALL, TLS, "tls_call", "a TLS library was called in a way that cannot be judged")                       \
	R(TLS_ELSEWHERE, TLS, "tls_elsewhere", "a TLS connection was read past the calls that are hooked")            \
	R(TLS_UNREADABLE, TLS, "tls_unreadable", "the plaintext of a TLS connection could not be read")               \
	R(MIDSTREAM, MIDSTREAM, "midstream", "the connection is older than the enforcer")                             \
	R(FRAME_SIZE, MALFORMED, "frame_size", "a frame has a length that its type does not allow")                   \
	R(FRAME_STREAM, MALFORMED, "frame_stream", "a frame stands on a stream that its type does not allow")         \
	R(FRAME_ORDER, MALFORMED, "frame_order", "a frame comes where HTTP/2 does not allow it")                      \
	R(PADDING, MALFORMED, "padding", "padding is longer than the frame")                                          \
	R(PADDED_HEADERS, MALFORMED, "padded_headers", "HEADERS are padded, which servers read differently")          \
	R(STREAM_ID, MALFORMED, "stream_id", "a stream id is even, reused or goes backwards")                         \
	R(HPACK_INDEX, MALFORMED, "hpack_index", "a header field refers to an entry that does not exist")             \
	R(HPACK_INTEGER, MALFORMED, "hpack_integer", "an HPACK integer is too long")                                  \
	R(HPACK_HUFFMAN, MALFORMED, "hpack_huffman", "a Huffman code is invalid or badly padded")                     \
	R(HPACK_SIZE_UPDATE, MALFORMED, "hpack_size_update", "a table size update is too large or out of place")      \
	R(HPACK_TRUNCATED, MALFORMED, "hpack_truncated", "a header block ends inside a field")                        \
	R(HEADER_NAME, MALFORMED, "header_name", "a header name has an upper-case or forbidden character")            \
	R(HEADER_VALUE, MALFORMED, "header_value", "a header value has a forbidden character or outer spaces")        \
	R(PSEUDO_HEADER, MALFORMED, "pseudo_header", "a pseudo-header is missing, unknown, repeated or out of place") \
	R(CONNECTION_HEADER, MALFORMED, "connection_header", "a connection-specific header is not allowed in HTTP/2") \
	R(PATH, MALFORMED, "path", "the :path is not /service/method")                                                \
	R(CONTENT_TYPE, MALFORMED, "content_type", "the content-type is not application/grpc")                        \
	R(TRAILERS, MALFORMED, "trailers", "metadata that a rule reads comes behind the messages")                    \
	R(GRPC_FLAG, MALFORMED, "grpc_flag", "the flag of a gRPC message is neither 0 nor 1")                         \
	R(GRPC_TRUNCATED, MALFORMED, "grpc_truncated", "the stream ends inside a gRPC message")                       \
	R(PROTOBUF_TAG, MALFORMED, "protobuf_tag", "a protobuf tag is invalid")                                       \
	R(PROTOBUF_VARINT, MALFORMED, "protobuf_varint", "a protobuf varint is longer than ten bytes")                \
	R(PROTOBUF_LENGTH, MALFORMED, "protobuf_length", "a protobuf field is longer than what holds it")             \
	R(PROTOBUF_GROUP, MALFORMED, "protobuf_group", "a protobuf group does not end where it should")               \
	R(PROTOBUF_VALUE, MALFORMED, "protobuf_value",                                                                \
	  "a value that a rule reads is none of its type: an enum's, a timestamp's, a duration's")                    \
	R(PROTOBUF_MAP, MALFORMED, "protobuf_map", "a protobuf map has another wire type, which some servers ignore") \
	R(UTF8, MALFORMED, "utf8", "a string that a rule reads is not UTF-8")                                         \
	R(PROTOBUF_WIRE_TYPE, AMBIGUOUS, "protobuf_wire_type", "a protobuf field has another wire type than its own") \
	R(PROTOBUF_LONG_VARINT, AMBIGUOUS, "protobuf_long_varint",                                                    \
	  "a protobuf tag, length or 32-bit number is encoded in too many bytes")                                     \
	R(PROTOBUF_REPEATED, AMBIGUOUS, "protobuf_repeated",                                                          \
	  "a protobuf sub-message that is not repeated comes twice")                                                  \
	R(PROTOBUF_ONEOF, AMBIGUOUS, "protobuf_oneof", "two members of a protobuf oneof are set")                     \
	R(PATH_LENGTH, TOO_LARGE, "path_length", "the :path is longer than the limit")                                \
	R(HEADER_BLOCK, TOO_LARGE, "header_block", "a header block is longer than the limit")                         \
	R(DYNAMIC_TABLE, TOO_LARGE, "dynamic_table", "the dynamic table has more entries than the limit")             \
	R(MESSAGE_DEPTH, TOO_LARGE, "message_depth", "a message is nested deeper than the limit")                     \
	R(STREAMS, TOO_LARGE, "streams", "there are more live streams than the limit")                                \
	R(CONNECTIONS, TOO_LARGE, "connections", "there are more connections than the limit")                         \
	R(RESPONSE_STREAM, TOO_LARGE, "response_stream",                                                              \
	  "the server sends DATA on a stream that is over for it, or was reset too long ago")                         \
	R(BUDGET, TOO_LARGE, "budget", "one segment needs more steps than the limit")                                 \
	R(UNJUDGED, ALWAYS, "unjudged", "TCP received bytes that were not judged")                                    \
	R(RETRANSMIT_UNVERIFIED, ALWAYS, "retransmit_unverified",                                                     \
	  "bytes that were judged but not accepted came again with other boundaries")                                 \
	R(SHARED_PAGES, ALWAYS, "shared_pages", "a local sender can still write the bytes of the segment")            \
	R(URGENT, ALWAYS, "urgent", "urgent data makes the reader skip a byte")                                       \
	R(SYN_DATA, ALWAYS, "syn_data", "data on a SYN")                                                              \
	R(NO_ACK, ALWAYS, "no_ack", "data without ACK")                                                               \
	R(HEADERS_UNREADABLE, ALWAYS, "headers_unreadable", "no TCP header was found in the packet")                  \
	R(MPTCP, ALWAYS, "mptcp", "a Multipath TCP subflow")                                                          \
	R(LISTENER_LOST, ALWAYS, "listener_lost", "data on the handshake's last ACK did not reach its connection")    \
	R(HELD_MISMATCH, ALWAYS, "held_mismatch", "a waiting segment came again with other bytes")                    \
	R(LOCK, ALWAYS, "lock", "the connection's state stayed locked")                                               \
	R(INTERNAL, ALWAYS, "internal", "the enforcer met a state that it does not know")

#define PG_REASON_ENUM(name, cause, text, help) PG_R_##name,
enum pg_reason { PG_REASONS(PG_REASON_ENUM) PG_R_COUNT };

#endif
