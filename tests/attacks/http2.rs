//! Frames and streams: RFC 9113.

use protocg_peers::h2raw::{self, Encoder, Headers, Style, flag, frame, kind, setting};
use protocg_peers::wire::Message;

use crate::talk::{
    CLIENT_STREAM, MARK, Talk, UNARY, Value, block, call_of, data, harmless, head, last, path_call, text_call,
};

/// The header block of a call of the value's method, as short as clients make it.
fn small(value: Value) -> Vec<u8> {
    Encoder::default().encode(&h2raw::call(value.path(), &[]), Style { references: true, ..Style::SMALL })
}

/// A frame of an unknown type.
fn unknown(stream: u32) -> Vec<u8> {
    frame::frame(0x2b, 0xff, stream, b"whatever")
}

/// These bytes before a call with the value's text.
fn before(bytes: impl AsRef<[u8]>, value: Value) -> Talk {
    Talk::new([bytes.as_ref(), &text_call(1, value)].concat())
}

/// These bytes within the message of a call with the value's text, with and without segments of their own.
fn within(bytes: &[u8], value: Value) -> Vec<Talk> {
    let (message, head) = (value.message(), head(1, UNARY, &[]));
    let (one, two) = (data(1, &message[..9]), last(1, &message[9..]));
    vec![
        Talk::new([&head[..], &one, bytes, &two].concat()),
        Talk::new([&head[..], &one].concat()).then(bytes).then(two),
    ]
}

/// HEADERS with these flags and this payload, then a harmless message.
fn framed(flags: u8, payload: &[u8]) -> Talk {
    let head = frame::frame(kind::HEADERS, flag::END_HEADERS | flags, 1, payload);
    Talk::new([head, last(1, &harmless())].concat())
}

/// DATA with these flags and this payload, on an open stream.
fn bodied(flags: u8, payload: &[u8]) -> Talk {
    Talk::new([head(1, UNARY, &[]), frame::frame(kind::DATA, flags, 1, payload)].concat())
}

fn padded(pad: u8, body: &[u8]) -> Vec<u8> {
    [&[pad][..], body, &vec![0; pad.into()]].concat()
}

/// A call that ends well, and then these bytes; the connection's third stream tells how.
fn behind(bytes: impl AsRef<[u8]>) -> Talk {
    Talk::new(text_call(1, Value::Allowed)).wait(1).then(bytes).until(&[3])
}

attacks! {
    continuation_cut_at_every_byte: "the header block cut into HEADERS and CONTINUATION at each of its bytes, in one segment and in two",
        off "handler", on "slow", good "allowed",
        |v| {
            let block = small(v);
            let cut = |at| Headers { splits: vec![at], ..Headers::new(false) }.write(1, &block);
            let body = last(1, &harmless());
            (0..=block.len())
                .map(|at| match at % 2 {
                    0 => Talk::new([cut(at), body.clone()].concat()),
                    _ => Talk::new(&cut(at)[..9 + at]).then(&cut(at)[9 + at..]).then(&body),
                })
                .collect()
        };
    continuation_of_single_bytes: "a header block of one CONTINUATION a byte, with empty ones between them",
        off "grpc-go: handler; grpc-js: GOAWAY INTERNAL_ERROR; grpcio: handler; GOAWAY ENHANCE_YOUR_CALM", on "tonic: slow or passed; slow", good "grpc-go: allowed; grpcio: allowed; refused",
        |v| {
            let block = small(v);
            [1, 2].map(|step| {
                let splits = (0..block.len() * step).map(|i| i / step).collect();
                Talk::new([Headers { splits, ..Headers::new(false) }.write(1, &block), last(1, &harmless())].concat())
            }).to_vec()
        };
    continuation_flood: "5,000 empty CONTINUATION frames before the end of the header block",
        off "grpc-go: handler; grpc-js: GOAWAY INTERNAL_ERROR; grpcio: RST_STREAM INTERNAL_ERROR; GOAWAY ENHANCE_YOUR_CALM", on "slow or passed", good "grpc-go: allowed; refused",
        |v| {
            let block = small(v);
            let head = Headers { splits: vec![7; 5000], ..Headers::new(false) }.write(1, &block);
            vec![Talk::new([head, last(1, &harmless())].concat())]
        };
    header_block_past_the_limit: "a header block of 70 KiB in CONTINUATION frames, the denied path at its beginning or end",
        off "grpc-go: handler; grpc-js: handler; grpcio: handler; GOAWAY COMPRESSION_ERROR", on "tonic: header_block or passed; header_block", good "grpc-go: header_block; grpc-js: header_block; grpcio: header_block or refused; refused",
        |v| {
            let mut fields = h2raw::call(v.path(), &[]);
            let filler = "x".repeat(7000);
            fields.extend([("x-filler", filler.as_str()); 10]);
            let block = block(&fields);
            let splits = (1..=block.len() / 16000).map(|i| i * 16000).collect();
            vec![Talk::new([Headers { splits, ..Headers::new(false) }.write(1, &block), last(1, &harmless())].concat())]
        };
    frames_inside_a_header_block: "PING, DATA, HEADERS, an unknown frame or another stream's CONTINUATION inside a header block",
        off "grpc-go: close; grpcio: UNAVAILABLE; GOAWAY PROTOCOL_ERROR", on "frame_order", good "refused",
        |v| {
            let block = small(v);
            let parts = Headers { splits: vec![9], ..Headers::new(false) }.write(1, &block);
            let (one, two) = parts.split_at(18);
            let inside = [
                frame::ping([7; 8], false),
                data(1, &harmless()),
                head(3, UNARY, &[]),
                unknown(1),
                unknown(0),
                frame::frame(kind::CONTINUATION, flag::END_HEADERS, 3, &block[9..]),
            ];
            inside.iter().map(|f| Talk::new([one, f, two, &last(1, &harmless())].concat())).collect()
        };
    headers_with_padding: "HEADERS padded with 0, 1 and 255 bytes, with and without priority",
        off "grpc-go: handler; grpc-js: handler; tonic: handler; INTERNAL", on "padded_headers", good "grpc-go: padded_headers; grpc-js: padded_headers; tonic: padded_headers; refused",
        |v| {
            let mut forms = Vec::new();
            for pad in [0, 1, 255] {
                for priority in [None, Some((0, true, 7))] {
                    let headers = Headers { pad: Some(pad), priority, ..Headers::new(false) };
                    forms.push(Talk::new([headers.write(1, &small(v)), last(1, &harmless())].concat()));
                }
            }
            forms
        };
    headers_whose_padding_is_a_header_block: "padding of HEADERS that holds the denied path or role, for a stack that reads on into it",
        off "grpcio: handler; harmless", on "padded_headers", good "padded_headers",
        |v| {
            // read as HPACK, the pad length itself is a table size update
            let length = 0x3e;
            let visible = block(&h2raw::call(UNARY, &[]));
            [vec![(":path", v.path())], vec![("x-role", v.role())], vec![(":path", v.path()), ("x-role", v.role())]]
                .map(|fields| {
                    let fields = block(&fields);
                    let hidden = [&fields[..], &block(&[("x-more", &"x".repeat(length - fields.len() - 9))])].concat();
                    assert_eq!(hidden.len(), length);
                    framed(flag::PADDED, &[&[0x3e], &visible[..], &hidden].concat())
                })
                .to_vec()
        };
    headers_with_padding_of_the_whole_payload: "HEADERS whose padding is as long as the payload, or longer",
        off "grpc-go: RST_STREAM PROTOCOL_ERROR; grpcio: INTERNAL / handler; GOAWAY PROTOCOL_ERROR / RST_STREAM PROTOCOL_ERROR", on "padded_headers", good "grpcio: padded_headers; refused",
        |v| {
            let block = small(v);
            let length = u8::try_from(block.len()).unwrap();
            [length, length + 1, 255].map(|pad| framed(flag::PADDED, &[&[pad], &block[..]].concat())).to_vec()
        };
    data_with_padding: "DATA padded with 0, 1 and 255 bytes, a frame of padding alone, and padding in mid-message",
        off "grpcio: RST_STREAM PROTOCOL_ERROR or UNIMPLEMENTED; handler", on "text", good "grpcio: refused; allowed",
        |v| {
            let message = v.message();
            let mut forms: Vec<Talk> = [0, 1, 255]
                .iter()
                .map(|pad| bodied(flag::PADDED | flag::END_STREAM, &padded(*pad, &message)))
                .collect();
            forms.push(Talk::new([
                head(1, UNARY, &[]),
                frame::data(1, &[], false, Some(200)),
                frame::data(1, &message[..8], false, Some(3)),
                frame::data(1, &message[8..], true, Some(0)),
            ].concat()));
            forms
        };
    data_whose_padding_is_the_rest_of_the_message: "the message's end in the padding, for a stack that reads on into it",
        off "grpc-go: UNKNOWN; grpc-js: UNIMPLEMENTED; grpcio: RST_STREAM PROTOCOL_ERROR or UNIMPLEMENTED; INTERNAL", on "grpc_truncated", good "refused",
        |v| {
            let message = v.message();
            vec![bodied(flag::PADDED | flag::END_STREAM, &[&[4], &message[..]].concat())]
        };
    data_with_padding_beyond_the_payload: "DATA whose padding is longer than the frame, or lacks its length",
        off "grpc-go: close; grpcio: RST_STREAM PROTOCOL_ERROR or UNIMPLEMENTED; GOAWAY PROTOCOL_ERROR", on "frame_size / padding", good "refused",
        |v| {
            let message = v.message();
            vec![
                bodied(flag::PADDED | flag::END_STREAM, &[&[u8::try_from(message.len() + 1).unwrap()], &message[..]].concat()),
                bodied(flag::PADDED | flag::END_STREAM, &[]),
            ]
        };
    priority: "priority in HEADERS, PRIORITY frames before, on other streams, on itself and within the message",
        off "handler", on "text", good "allowed",
        |v| {
            let frames = [frame::priority(1, 0, true, 255), frame::priority(9, 1, false, 0)].concat();
            let headers = Headers { priority: Some((0, true, 255)), ..Headers::new(false) };
            let mut forms = within(&frames, v);
            forms.push(before(&frames, v));
            forms.push(Talk::new([headers.write(1, &block(&h2raw::call(UNARY, &[]))), last(1, &v.message())].concat()));
            forms
        };
    unknown_frame_types: "frames of unknown types, on known and unknown streams, before the call and within the message",
        off "handler", on "text", good "allowed",
        |v| {
            let frames: Vec<u8> = [0, 1, 7, 8].into_iter().flat_map(unknown).collect();
            let mut forms = within(&frames, v);
            forms.push(before(&frames, v));
            forms
        };
    unknown_flags: "HEADERS with all flags that no standard defines, CONTINUATION with all flags",
        off "handler", on "slow", good "allowed",
        |v| {
            let block = small(v);
            let all = frame::frame(kind::CONTINUATION, 0xff, 1, &block[9..]);
            let two = [frame::frame(kind::HEADERS, 0x92, 1, &block[..9]), all, last(1, &harmless())].concat();
            vec![framed(0x92, &block), Talk::new(two)]
        };
    unknown_flags_on_data: "DATA with all flags that no standard defines",
        off "grpcio: RST_STREAM PROTOCOL_ERROR or UNIMPLEMENTED; handler", on "text", good "grpcio: refused; allowed",
        |v| vec![bodied(0xf2 | flag::END_STREAM, &v.message())];
    reserved_bit_of_stream_ids: "the reserved bit of the stream id set in HEADERS, DATA or both",
        off "handler", on "text", good "allowed",
        |v| {
            let bit = 1 << 31;
            [(bit, 0), (0, bit), (bit, bit)]
                .map(|(one, two)| Talk::new([head(1 | one, UNARY, &[]), last(1 | two, &v.message())].concat()))
                .to_vec()
        };
    unknown_settings: "SETTINGS with unknown identifiers, before the call and within the message",
        off "handler", on "text", good "allowed",
        |v| {
            let settings = frame::settings(&[(0, 1), (7, 7), (0xfe, u32::MAX), (0xffff, 0)]);
            let mut forms = within(&settings, v);
            forms.push(before(&settings, v));
            forms
        };
    settings_after_data: "known SETTINGS, also of the client's table and frame size, within the message and between two calls",
        off "handler", on "text", good "allowed",
        |v| {
            let settings = frame::settings(&[
                (setting::HEADER_TABLE_SIZE, 0),
                (setting::INITIAL_WINDOW_SIZE, 70_000),
                (setting::MAX_FRAME_SIZE, 100_000),
                (setting::HEADER_TABLE_SIZE, 65_536),
            ]);
            let mut forms = within(&settings, v);
            forms.push(behind([settings, text_call(3, v)].concat()));
            forms
        };
    settings_of_wrong_values: "SETTINGS with values that HTTP/2 forbids",
        off "grpc-go: handler; grpc-js: GOAWAY INTERNAL_ERROR; GOAWAY PROTOCOL_ERROR", on "text", good "grpc-go: allowed; refused",
        |v| {
            [(setting::ENABLE_PUSH, 2), (setting::MAX_FRAME_SIZE, 1)]
                .map(|value| before(frame::settings(&[value]), v))
                .to_vec()
        };
    frames_of_wrong_lengths: "SETTINGS of 5 bytes, an ACK with payload, PING of 7, RST_STREAM of 3, PRIORITY of 4, WINDOW_UPDATE of 5, GOAWAY of 7, before the call",
        off "grpc-go: close; grpc-js: GOAWAY FRAME_SIZE_ERROR; grpcio: close / handler; GOAWAY PROTOCOL_ERROR", on "frame_size", good "grpcio: frame_size; refused",
        |v| {
            [
                (kind::SETTINGS, 0, 0, 5),
                (kind::SETTINGS, flag::ACK, 0, 6),
                (kind::PING, 0, 0, 7),
                (kind::RST_STREAM, 0, 1, 3),
                (kind::PRIORITY, 0, 1, 4),
                (kind::WINDOW_UPDATE, 0, 0, 5),
                (kind::GOAWAY, 0, 0, 7),
            ]
            .map(|(kind, flags, stream, length)| before(frame::frame(kind, flags, stream, &vec![0; length]), v))
            .to_vec()
        };
    frames_on_wrong_streams: "SETTINGS, PING and GOAWAY on a stream, HEADERS and DATA on none, before the call",
        off "grpc-go: close; grpc-js: GOAWAY INTERNAL_ERROR / GOAWAY PROTOCOL_ERROR; grpcio: close / handler; GOAWAY PROTOCOL_ERROR", on "frame_stream", good "grpcio: frame_stream; refused",
        |v| {
            let on = |kind, stream, length| before(frame::frame(kind, 0, stream, &vec![0; length]), v);
            vec![
                on(kind::SETTINGS, 1, 0),
                on(kind::PING, 1, 8),
                on(kind::GOAWAY, 1, 8),
                on(kind::DATA, 0, 8),
                before(head(0, UNARY, &[]), v),
            ]
        };
    settings_flood: "300 SETTINGS frames before the call", off "handler", on "text", good "allowed",
        |v| vec![before(frame::settings(&[(setting::INITIAL_WINDOW_SIZE, 65_535)]).repeat(300), v)];
    ping_flood: "300 PING frames before the call",
        off "grpc-go: GOAWAY ENHANCE_YOUR_CALM; grpcio: GOAWAY ENHANCE_YOUR_CALM; handler", on "grpcio: text or passed; text", good "grpc-go: refused; grpcio: refused; allowed",
        |v| vec![before(frame::ping([1; 8], false).repeat(300), v)];
    data_flood: "2,000 DATA frames without a byte before, within and behind the message",
        off "grpc-go: handler; grpc-js: GOAWAY INTERNAL_ERROR; grpcio: handler; GOAWAY ENHANCE_YOUR_CALM", on "tonic: text or passed; text", good "grpc-go: allowed; grpcio: allowed; refused",
        |v| {
            let flood = data(1, &[]).repeat(2000);
            let mut forms = within(&flood, v);
            forms.push(Talk::new([head(1, UNARY, &[]), flood.clone(), last(1, &v.message())].concat()));
            forms.push(Talk::new([head(1, UNARY, &[]), data(1, &v.message()), flood, last(1, &[])].concat()));
            forms
        };
    reset_in_mid_message: "RST_STREAM in mid-message, then its rest, and the same on a new stream",
        off "handler", on "text", good "allowed",
        |v| {
            let message = v.message();
            let rest = last(1, &message[9..]);
            vec![Talk::new(
                [head(1, UNARY, &[]), data(1, &message[..9]), frame::rst_stream(1, 8), rest, text_call(3, v)].concat(),
            ).until(&[3])]
        };
    rest_of_a_reset_message: "RST_STREAM in mid-message, then its rest",
        off "grpc-go: silence; grpc-js: silence; grpcio: silence; RST_STREAM STREAM_CLOSED", on "passed", good "refused",
        |v| {
            let message = v.message();
            let rest = last(1, &message[9..]);
            vec![Talk::new([head(1, CLIENT_STREAM, &[]), data(1, &message[..9]), frame::rst_stream(1, 8), rest].concat())]
        };
    interleaved_streams: "two calls whose messages come a byte at a time, in turn; either is denied",
        off "handler", on "text", good "allowed",
        |v| {
            [(v, Value::Allowed, [3, 1]), (Value::Allowed, v, [1, 3])].map(|(one, two, until)| {
                let (one, two) = (one.message(), two.message());
                let mut bytes = [head(1, UNARY, &[]), head(3, UNARY, &[])].concat();
                for i in 0..one.len() {
                    for (stream, message) in [(1, &one), (3, &two)] {
                        bytes.extend(frame::data(stream, &message[i..=i], i + 1 == message.len(), None));
                    }
                }
                Talk::new(bytes).until(&until)
            }).to_vec()
        };
    many_streams: "90 streams are open, and the denied message ends on the first",
        off "handler", on "text", good "allowed",
        |v| {
            let message = v.message();
            let mut bytes: Vec<u8> = (0..90).flat_map(|i| head(2 * i + 1, UNARY, &[])).collect();
            bytes.extend((0..90).flat_map(|i| data(2 * i + 1, &message[..9])));
            bytes.extend(last(1, &message[9..]));
            vec![Talk::new(bytes)]
        };
    frames_of_streams_denied_long_ago: "130 calls are denied, more than the enforcer remembers; then frames for the first of them",
        off "grpc-go: close; grpc-js: silence; grpcio: silence; GOAWAY PROTOCOL_ERROR", on "stream_id / text or stream_id", good "refused",
        |v| {
            let marked = h2raw::grpc(&Message::new().bytes(1, format!("{} {MARK}", v.text())).bytes);
            let bytes: Vec<u8> = (0..130).flat_map(|i| text_call(2 * i + 1, v)).collect();
            let again = [last(1, &marked), head(3, UNARY, &[]), last(3, &marked)].concat();
            let answered = (0..130).fold(Talk::new(bytes), |talk, i| talk.wait(2 * i + 1));
            vec![answered.then(again).until(&[261]).marked()]
        };
    even_stream_ids: "the call on an even stream", off "grpc-go: close; grpc-js: GOAWAY INTERNAL_ERROR; grpcio: silence; GOAWAY PROTOCOL_ERROR", on "stream_id", good "refused",
        |v| vec![Talk::new(text_call(2, v)).until(&[2])];
    stream_ids_used_again: "the call on a stream that a finished call had",
        off "grpc-go: close; grpc-js: silence; grpcio: silence; GOAWAY PROTOCOL_ERROR", on "stream_id", good "refused",
        |v| vec![behind(text_call(1, v))];
    stream_ids_that_decrease: "the call on a stream below one that was used",
        off "grpc-go: close; grpc-js: silence; grpcio: silence; GOAWAY PROTOCOL_ERROR", on "stream_id", good "refused",
        |v| vec![Talk::new(text_call(5, Value::Allowed)).wait(5).then(text_call(3, v)).until(&[3])];
    data_on_an_idle_stream: "the message before its HEADERS",
        off "grpc-go: UNKNOWN; grpcio: UNIMPLEMENTED; GOAWAY PROTOCOL_ERROR", on "stream_id", good "refused",
        |v| vec![Talk::new([data(1, &v.message()), head(1, UNARY, &[]), last(1, &[])].concat())];
    data_behind_the_end: "the message after END_STREAM on HEADERS or on DATA",
        off "grpc-go: RST_STREAM STREAM_CLOSED; grpc-js: GOAWAY STREAM_CLOSED; grpcio: harmless; GOAWAY PROTOCOL_ERROR", on "stream_id", good "grpc-go: stream_id; grpc-js: stream_id; grpcio: stream_id; refused",
        |v| {
            let head = |end| Headers::new(end).write(1, &block(&h2raw::call(CLIENT_STREAM, &[])));
            vec![
                Talk::new([head(true), last(1, &v.message())].concat()),
                Talk::new([head(false), last(1, &[]), last(1, &v.message())].concat()),
            ]
        };
    data_on_a_closed_stream: "the message on a stream whose call is over",
        off "silence", on "passed", good "refused",
        |v| vec![behind(last(1, &v.message()))];
    headers_again: "a second header block on an open stream, with the denied path or role, without END_STREAM",
        off "grpc-go: RST_STREAM PROTOCOL_ERROR / close; grpcio: UNAVAILABLE; RST_STREAM PROTOCOL_ERROR", on "frame_order", good "grpc-go: frame_order; refused",
        |v| {
            let again = Headers::new(false).write(1, &block(&[("x-role", v.role())]));
            vec![
                Talk::new([head(1, UNARY, &[]), again, last(1, &harmless())].concat()),
                Talk::new([head(1, UNARY, &[]), head(1, v.path(), &[]), last(1, &harmless())].concat()),
            ]
        };
    upgrade_to_h2c: "HTTP/1.1 with Upgrade: h2c, then the call",
        off "grpc-js: GOAWAY INTERNAL_ERROR; close", on "not_http2", good "refused",
        |v| {
            let ask = format!(
                "POST {UNARY} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                 HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
            );
            vec![
                Talk::bare(&ask).then([h2raw::open(&[]), text_call(1, v)].concat()),
                Talk::bare([ask.as_bytes(), &h2raw::open(&[]), &text_call(1, v)].concat()),
            ]
        };
    second_preface: "the preface a second time, then the call",
        off "grpc-go: close; grpcio: close; GOAWAY FRAME_SIZE_ERROR", on "passed", good "refused",
        |v| vec![before(h2raw::PREFACE, v), before(h2raw::open(&[]), v)];
    call_without_settings: "the call right behind the preface, without SETTINGS",
        off "grpc-go: close; grpc-js: GOAWAY INTERNAL_ERROR; grpcio: close; handler", on "text", good "grpc-go: refused; grpc-js: refused; grpcio: refused; allowed",
        |v| vec![Talk::bare([h2raw::PREFACE, &text_call(1, v)].concat())];
    goaway_from_the_client: "GOAWAY from the client, then the call", off "grpc-js: GOAWAY INTERNAL_ERROR / close; handler", on "text", good "grpc-js: refused; allowed",
        |v| vec![before(frame::goaway(0, 0), v), before(frame::goaway(0x7fff_ffff, 2), v)];
    push_promise_from_the_client: "PUSH_PROMISE with the call's header block from the client",
        off "grpc-go: silence; grpc-js: GOAWAY INTERNAL_ERROR; grpcio: silence; GOAWAY PROTOCOL_ERROR", on "frame_order", good "grpc-go: frame_order; grpcio: frame_order; refused",
        |v| {
            let block = block(&h2raw::call(v.path(), &[]));
            let promise = [&3_u32.to_be_bytes()[..], &block].concat();
            let promise = frame::frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &promise);
            vec![Talk::new([head(1, UNARY, &[]), promise, last(1, &harmless()), last(3, &harmless())].concat()).until(&[3])]
        };
    window_updates: "WINDOW_UPDATE of 0 and past 2^31 - 1, of the connection, before the call",
        off "grpc-go: handler; grpc-js: GOAWAY INTERNAL_ERROR; grpcio: handler; GOAWAY FLOW_CONTROL_ERROR", on "text", good "grpc-go: allowed; grpcio: allowed; refused",
        |v| vec![before(frame::window_update(0, 0x7fff_ffff).repeat(2), v)];
    frames_above_the_largest: "DATA and HEADERS of more than SETTINGS_MAX_FRAME_SIZE",
        off "grpc-go: close; grpcio: UNAVAILABLE / close; GOAWAY FRAME_SIZE_ERROR", on "slow / text", good "refused",
        |v| {
            let filler = "x".repeat(17_000);
            let long = Message::new().bytes(1, v.text()).bytes(2, &filler).bytes;
            let block = block(&h2raw::call(v.path(), &[("x-filler", &filler)]));
            vec![
                Talk::new([head(1, UNARY, &[]), last(1, &h2raw::grpc(&long))].concat()),
                Talk::new(call_of(1, &block)),
            ]
        };
    calls_in_one_segment: "allowed calls around the denied one in one segment, and each byte in a segment of its own",
        off "handler", on "slow", good "allowed",
        |v| {
            let bytes = [path_call(1, Value::Allowed), path_call(3, v), path_call(5, Value::Allowed)].concat();
            let single = path_call(1, v).iter().fold(Talk::new([]), |talk, byte| talk.then([*byte]));
            vec![Talk::new(bytes).until(&[1, 5, 3]), single]
        };
}
