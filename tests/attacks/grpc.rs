//! gRPC's messages in DATA: PROTOCOL-HTTP2.md.

use std::io::Write;

use protocg_peers::h2raw::{self, frame};
use protocg_peers::wire::Message;

use crate::talk::{CLIENT_STREAM, LOGIN, Talk, UNARY, Value, data, harmless, head, last};

/// DATA frames that end a call of a method, with these fields of metadata.
fn framed(path: &str, more: &[(&str, &str)], frames: &[Vec<u8>]) -> Talk {
    Talk::new([head(1, path, more), frames.concat()].concat())
}

fn body(body: &[u8]) -> Talk {
    framed(UNARY, &[], &[last(1, body)])
}

/// A message with this flag.
fn flagged(flag: u8, value: Value) -> Vec<u8> {
    let message = Message::new().bytes(1, value.text()).bytes;
    h2raw::grpc_claiming(flag, u32::try_from(message.len()).unwrap(), &message)
}

/// A message that is gzip, as its flag says.
fn gzip(value: Value) -> Vec<u8> {
    let mut coder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    coder.write_all(&Message::new().bytes(1, value.text()).bytes).unwrap();
    let message = coder.finish().unwrap();
    h2raw::grpc_claiming(1, u32::try_from(message.len()).unwrap(), &message)
}

attacks! {
    messages_cut_at_every_byte: "the message in two DATA frames, cut at each of its bytes, in one segment and in two",
        off "handler", on "text", good "allowed",
        |v| {
            let message = v.message();
            (0..=message.len())
                .flat_map(|at| {
                    let (one, two) = (data(1, &message[..at]), last(1, &message[at..]));
                    [framed(UNARY, &[], &[one.clone(), two.clone()]), framed(UNARY, &[], &[one]).then(two)]
                })
                .collect()
        };
    messages_of_single_bytes: "the message in one DATA frame a byte, with empty frames between them",
        off "handler", on "text", good "allowed",
        |v| {
            let frames: Vec<Vec<u8>> = v.message().iter().flat_map(|byte| [data(1, &[*byte]), data(1, &[])]).collect();
            vec![framed(UNARY, &[], &[&frames[..], &[last(1, &[])]].concat())]
        };
    many_messages_in_one_frame: "the denied message among others in one DATA frame, first, in the middle and last",
        off "handler", on "text", good "allowed",
        |v| [[0, 40], [20, 20], [40, 0]]
            .map(|[before, behind]| {
                let all = [harmless().repeat(before), v.message(), harmless().repeat(behind)].concat();
                framed(CLIENT_STREAM, &[], &[last(1, &all)])
            })
            .to_vec();
    messages_across_frames: "messages that end in mid-frame, with frames of 7 bytes",
        off "handler", on "text", good "allowed",
        |v| {
            let all = [harmless().repeat(3), v.message(), harmless()].concat();
            vec![framed(CLIENT_STREAM, &[], &[frame::data_in_pieces(1, &all, true, 7)])]
        };
    empty_messages: "messages of no bytes before the denied one", off "handler", on "text", good "allowed",
        |v| vec![framed(CLIENT_STREAM, &[], &[last(1, &[h2raw::grpc(&[]).repeat(50), v.message()].concat())])];
    second_message_of_a_unary_call: "a second message behind a unary call's own",
        off "grpc-js: UNIMPLEMENTED; harmless", on "text", good "grpc-js: refused; allowed",
        |v| vec![body(&[harmless(), v.message()].concat())];
    lengths_beyond_the_data: "a prefix that says more than the stream has",
        off "grpc-go: RESOURCE_EXHAUSTED / UNKNOWN; grpc-js: UNIMPLEMENTED; grpcio: UNIMPLEMENTED; INTERNAL / OUT_OF_RANGE", on "grpc_truncated", good "refused",
        |v| {
            let message = Message::new().bytes(1, v.text()).bytes;
            [message.len() as u32 + 1, 4096, u32::MAX].map(|n| body(&h2raw::grpc_claiming(0, n, &message))).to_vec()
        };
    lengths_short_of_the_data: "a prefix that says less than the message has: the rest is another's prefix",
        off "grpc-go: INTERNAL / harmless; grpc-js: harmless; grpcio: INTERNAL / harmless; INTERNAL", on "grpc_flag / protobuf_length", good "grpc-go: grpc_flag / protobuf_length; grpc-js: grpc_flag / protobuf_length; grpcio: grpc_flag; refused",
        |v| {
            let message = Message::new().bytes(1, v.text()).bytes;
            vec![body(&h2raw::grpc_claiming(0, 0, &message)), body(&h2raw::grpc_claiming(0, 3, &message))]
        };
    end_of_stream_in_mid_message: "END_STREAM within the prefix or the message",
        off "grpc-go: UNKNOWN; grpc-js: UNIMPLEMENTED; grpcio: UNIMPLEMENTED; INTERNAL", on "grpc_truncated", good "refused",
        |v| {
            let message = v.message();
            [1, 4, 5, message.len() - 1].map(|n| body(&message[..n])).to_vec()
        };
    compressed_flag_without_an_encoding: "the flag 1 on a message that is not compressed, without `grpc-encoding` and with `identity`",
        off "grpc-js: handler; INTERNAL", on "compressed", good "grpc-js: compressed; refused",
        |v| vec![
            body(&flagged(1, v)),
            framed(UNARY, &[("grpc-encoding", "identity")], &[last(1, &flagged(1, v))]),
        ];
    compressed_messages: "a message that is gzip, as `grpc-encoding` says", off "handler", on "compressed", good "compressed",
        |v| vec![
            framed(UNARY, &[("grpc-encoding", "gzip")], &[last(1, &gzip(v))]),
            framed(CLIENT_STREAM, &[("grpc-encoding", "gzip")], &[last(1, &[harmless(), gzip(v)].concat())]),
        ];
    plain_messages_under_an_encoding: "`grpc-encoding: gzip`, and a message whose flag says that it is not",
        off "handler", on "text", good "allowed",
        |v| vec![framed(UNARY, &[("grpc-encoding", "gzip")], &[last(1, &flagged(0, v))])];
    unknown_encodings: "`grpc-encoding` of an unknown name, plain and compressed messages",
        off "grpc-js: UNIMPLEMENTED / handler; grpcio: INTERNAL; UNIMPLEMENTED", on "compressed / text", good "grpc-js: allowed; refused",
        |v| [flagged(0, v), flagged(1, v)]
            .map(|message| framed(UNARY, &[("grpc-encoding", "x-own")], &[last(1, &message)]))
            .to_vec();
    flags_past_1: "the flags 2, 3, 0x80 and 255", off "grpc-js: handler; grpcio: harmless; INTERNAL", on "grpc_flag", good "grpc-js: grpc_flag; grpcio: grpc_flag; refused",
        |v| [2, 3, 0x80, 255].map(|flag| body(&flagged(flag, v))).to_vec();
    flags_past_1_in_a_stream: "the flag 2 on a stream's second message, and the denied one behind it",
        off "grpc-js: handler; grpcio: harmless; INTERNAL", on "grpc_flag", good "grpc_flag",
        |v| vec![framed(CLIENT_STREAM, &[], &[last(1, &[harmless(), flagged(2, Value::Allowed), v.message()].concat())])];
    messages_that_never_come: "a message that is reset, padded or flagged such that a stack may hand an empty one to its handler, which a rule denies",
        off "grpc-go: INTERNAL / UNKNOWN / close / harmless / silence; grpc-js: GOAWAY FRAME_SIZE_ERROR / UNIMPLEMENTED / harmless / silence; grpcio: RST_STREAM PROTOCOL_ERROR or UNIMPLEMENTED / UNAVAILABLE or close / handler / silence; GOAWAY FRAME_SIZE_ERROR / INTERNAL / OUT_OF_RANGE / silence", on "grpc_flag / grpc_truncated / passed / protobuf_tag", good "grpc-go: protobuf_tag; grpc-js: grpc_flag / protobuf_tag; grpcio: grpc_flag; refused",
        |v| {
            let path = if v == Value::Denied { LOGIN } else { UNARY };
            let message = h2raw::grpc(&Message::new().bytes(1, "eve").bytes);
            let flagged = [&[2][..], &message[1..]].concat();
            let half = data(1, &message[..7]);
            let padding = frame::data(1, &message, true, Some(1));
            let length = h2raw::grpc_claiming(0, 200, b"eve");
            vec![
                framed(path, &[], &[last(1, &flagged)]),
                framed(path, &[], &[half.clone(), frame::rst_stream(1, 8)]),
                framed(path, &[], &[half.clone(), padding]),
                framed(path, &[], &[half.clone(), frame::frame(0, 0x40, 1, b"x")]),
                framed(path, &[], &[half, h2raw::PREFACE.to_vec()]),
                framed(path, &[], &[last(1, &length)]),
            ]
        };
    long_messages: "the denied text behind 100 KB of other fields", off "handler", on "text", good "allowed",
        |v| {
            let long = Message::new().bytes(2, vec![0; 30_000]).bytes(2, vec![0; 10_000]).bytes(1, v.text()).bytes;
            vec![framed(UNARY, &[], &[frame::data_in_pieces(1, &h2raw::grpc(&long), true, 16_384)])]
        };
}
