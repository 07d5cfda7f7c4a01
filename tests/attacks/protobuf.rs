//! The protobuf wire format.

use protocg_peers::h2raw;
use protocg_peers::wire::{Message, overlong, varint, wire_type};

use crate::talk::{Talk, UNARY, Value, head, last};

fn call(message: &Message) -> Talk {
    Talk::new([head(1, UNARY, &[]), last(1, &h2raw::grpc(&message.bytes))].concat())
}

fn calls(messages: impl IntoIterator<Item = Message>) -> Vec<Talk> {
    messages.into_iter().map(|message| call(&message)).collect()
}

fn new() -> Message {
    Message::new()
}

/// outer.middle.inner.name
fn inner(value: Value) -> Message {
    let inner = new().bytes(1, value.text());
    new().message(17, &new().message(3, &new().message(3, &inner)))
}

/// Any bytes as a tag.
fn tagged(tag: Vec<u8>, value: Value) -> Message {
    new().raw(&tag).raw(&[6]).raw(value.text().as_bytes())
}

/// The denied field in an unknown one: for who reads three bytes further than this sub-message has, a field of its own.
fn behind(message: Message, value: Value) -> Message {
    message.bytes(900, &new().bytes(1, value.text()).bytes)
}

attacks! {
    fields_in_any_order: "fields in descending order, the denied one first, last and between others",
        off "handler", on "text", good "allowed",
        |v| {
            let other = || new().varint(105, 0).fixed32(10, [0; 4]).bytes(2, "x").varint(4, 1);
            calls([
                other().bytes(1, v.text()),
                new().bytes(1, v.text()).raw(&other().bytes),
                other().bytes(1, v.text()).raw(&other().bytes),
            ])
        };
    last_value_wins: "an allowed value, then the denied one", off "handler", on "i32 / protobuf_oneof / text", good "allowed / protobuf_oneof",
        |v| calls([
            new().bytes(1, "public").bytes(1, v.text()),
            new().varint(4, 1).varint(4, v.number()),
            new().bytes(18, "public").varint(19, 5).bytes(18, v.text()),
        ]);
    first_value_loses: "the denied value, then an allowed one", off "grpc-js: handler / harmless; harmless", on "passed / protobuf_oneof / protobuf_repeated", good "allowed / protobuf_oneof / protobuf_repeated",
        |v| calls([
            new().bytes(1, v.text()).bytes(1, "public"),
            new().varint(4, v.number()).varint(4, 1),
            new().bytes(18, v.text()).varint(19, 5),
            inner(v).raw(&inner(Value::Allowed).bytes),
        ]);
    merged_sub_messages: "a sub-message in parts, which decoders merge: its name in one, other fields in others",
        off "grpc-js: harmless; handler", on "protobuf_repeated", good "protobuf_repeated",
        |v| {
            let level = |n| new().message(17, &new().varint(2, n));
            let flag = new().message(17, &new().message(3, &new().message(3, &new().varint(3, 2))));
            calls([
                inner(v).raw(&flag.bytes),
                flag.raw(&inner(v).bytes).raw(&level(1).bytes),
                level(v.number()).raw(&inner(Value::Allowed).bytes),
            ])
        };
    overlong_varints_in_values: "numbers in up to ten bytes", off "grpc-js: INTERNAL / handler; handler", on "i32 / i64 / u32 / protobuf_long_varint", good "allowed / protobuf_long_varint",
        |v| (1..=8).flat_map(|n| calls([
            new().overlong(4, v.number(), n), new().overlong(5, v.number(), n), new().overlong(6, v.number(), n),
        ])).collect();
    overlong_varints_in_lengths: "a length in two to ten bytes",
        off "grpc-js: handler / harmless; grpcio: INTERNAL / handler; handler", on "text / protobuf_long_varint", good "grpcio: allowed; allowed / protobuf_long_varint",
        |v| (1..=9).map(|n| call(&new().bytes_claiming(1, 6, n, v.text().as_bytes()))).collect();
    overlong_varints_in_tags: "a tag in two to five bytes",
        off "handler", on "text", good "allowed",
        |v| (1..=4).map(|n| call(&tagged(overlong(10, n), v))).collect();
    very_long_varints_in_tags: "a tag in six to ten bytes",
        off "grpc-go: handler; grpc-js: handler / harmless; tonic: handler; INTERNAL", on "protobuf_long_varint", good "grpc-go: protobuf_long_varint; grpc-js: protobuf_long_varint; tonic: protobuf_long_varint; refused",
        |v| (5..=9).map(|n| call(&tagged(overlong(10, n), v))).collect();
    varints_past_ten_bytes: "a tag, a length or a number in eleven bytes",
        off "grpc-js: INTERNAL / handler; INTERNAL", on "protobuf_varint", good "grpc-go: protobuf_varint; grpc-js: protobuf_varint; refused",
        |v| calls([
            tagged(overlong(10, 10), v),
            new().bytes_claiming(1, 6, 10, v.text().as_bytes()),
            new().overlong(4, v.number(), 9),
            new().overlong(900, v.number(), 9).bytes(1, v.text()),
        ]);
    tags_past_32_bits: "a tag that is the denied field's when cut to 32 bits",
        off "grpc-js: handler / harmless; INTERNAL", on "protobuf_tag", good "grpc-go: protobuf_tag; grpc-js: protobuf_tag; refused",
        |v| calls([1 << 32, 1 << 40, 1 << 63].map(|high: u64| tagged(varint(10 | high), v)));
    numbers_past_32_bits: "32-bit numbers whose varint has bits past the 32nd",
        off "grpc-js: INTERNAL / handler; handler", on "i32 / u32 / protobuf_long_varint", good "allowed / protobuf_long_varint",
        |v| [1 << 32, 1 << 40, 0xffff_ffff << 32]
            .into_iter()
            .flat_map(|high: u64| calls([new().varint(4, v.number() | high), new().varint(6, v.number() | high)]))
            .collect();
    negative_numbers: "a negative int32 in five and in ten bytes", off "handler", on "i32", good "allowed",
        |v| {
            let value = (v.number() as i64).wrapping_neg() as u64;
            calls([new().varint(4, value), new().varint(4, value & 0xffff_ffff)])
        };
    zigzag_numbers: "sint32 and sint64, also with bits past the 32nd", off "grpc-js: INTERNAL / handler; handler", on "s32 / s64 / protobuf_long_varint", good "allowed / protobuf_long_varint",
        |v| {
            let value = -(v.number() as i64);
            let zigzag = ((value << 1) ^ (value >> 63)) as u64;
            calls([new().zigzag(8, value), new().zigzag(9, value), new().varint(8, zigzag | 1 << 40)])
        };
    fixed_widths: "fixed32, fixed64, sfixed32, sfixed64, float and double",
        off "handler", on "f32 / f64 / sf32 / sf64 / f / d", good "allowed",
        |v| {
            let n = v.number();
            let minus = -(n as i64);
            calls([
                new().fixed32(10, (n as u32).to_le_bytes()),
                new().fixed64(11, n.to_le_bytes()),
                new().fixed32(12, (minus as i32).to_le_bytes()),
                new().fixed64(13, minus.to_le_bytes()),
                new().fixed32(14, (n as f32).to_le_bytes()),
                new().fixed64(15, (n as f64).to_le_bytes()),
            ])
        };
    booleans_of_other_varints: "true as 2, 256 and a long 1",
        off "grpc-js: INTERNAL / handler; handler", on "flag / protobuf_long_varint", good "allowed / protobuf_long_varint",
        |v| {
            let yes = u64::from(v == Value::Denied);
            calls([new().varint(3, yes * 2), new().varint(3, yes * 256), new().overlong(3, yes, 8)])
        };
    booleans_past_32_bits: "true as 2^32 and 2^63", off "grpc-js: harmless; handler", on "protobuf_long_varint", good "allowed",
        |v| {
            let yes = u64::from(v == Value::Denied);
            calls([new().varint(3, yes << 32), new().varint(3, yes << 63)])
        };
    enums_out_of_range: "an enum without a name, and one with bits past the 32nd",
        off "grpc-js: INTERNAL / handler; handler", on "color / protobuf_long_varint", good "allowed / protobuf_long_varint",
        |v| calls([new().varint(16, v.number()), new().varint(16, if v == Value::Denied { 1 | 1 << 40 } else { 2 | 1 << 40 })]);
    unknown_fields: "unknown fields of every wire type before, behind and between the halves of a sub-message",
        off "handler", on "text / inner", good "allowed",
        |v| {
            let unknown = new().varint(900, u64::MAX).fixed32(901, [0xff; 4]).fixed64(902, [0xff; 8]).bytes(903, [0x0a; 300]);
            calls([
                unknown.clone().bytes(1, v.text()),
                new().bytes(1, v.text()).raw(&unknown.bytes),
                unknown.clone().raw(&inner(v).bytes).raw(&unknown.bytes),
            ])
        };
    fields_within_unknown_ones: "the denied field's bytes within an unknown field or `bytes`, which hold nothing",
        off "harmless", on "passed", good "allowed",
        |v| calls([new().bytes(903, &new().bytes(1, v.text()).bytes), new().message(20, &new().bytes(1, v.text()))]);
    groups: "groups and nested groups before the denied field; in groups it is none",
        off "handler", on "text", good "allowed",
        |v| {
            let hidden = new().group(200, &new().bytes(1, "x").group(1, &new().varint(4, 1)));
            calls([hidden.clone().bytes(1, v.text()), new().bytes(1, v.text()).raw(&hidden.bytes)])
        };
    fields_within_groups: "the denied field within an unknown group, or a group of its own number",
        off "harmless", on "passed", good "allowed",
        |v| calls([new().group(200, &new().bytes(1, v.text())), new().group(200, &new().group(201, &inner(v)))]);
    groups_of_a_known_number: "a group with the number of a string field",
        off "grpc-js: handler; tonic: INTERNAL; harmless", on "protobuf_wire_type", good "grpc-go: protobuf_wire_type; grpc-js: protobuf_wire_type; grpcio: protobuf_wire_type; refused",
        |v| calls([new().group(1, &new().bytes(1, v.text()))]);
    groups_that_do_not_end: "a group without an end, with another's end, an end without a group, then the denied field",
        off "grpc-js: INTERNAL / handler; INTERNAL", on "protobuf_group", good "grpc-go: protobuf_group; grpc-js: protobuf_group; refused",
        |v| {
            let text = new().bytes(1, v.text()).bytes;
            calls([
                new().tag(200, wire_type::SGROUP).raw(&text),
                new().tag(200, wire_type::SGROUP).tag(201, wire_type::EGROUP).raw(&text),
                new().tag(200, wire_type::EGROUP).raw(&text),
                new().tag(1, wire_type::EGROUP).raw(&text),
            ])
        };
    wrong_wire_types: "a known field with another wire type, whose bytes hold the denied one for a decoder that ignores the type",
        off "grpc-go: handler / harmless; grpc-js: INTERNAL / handler; grpcio: handler / harmless; INTERNAL", on "protobuf_wire_type", good "grpc-go: protobuf_wire_type; grpc-js: protobuf_wire_type; grpcio: protobuf_wire_type; refused",
        |v| {
            let text = new().bytes(1, v.text()).bytes;
            let payload = new().bytes(2, v.text()).bytes;
            calls([
                new().tag(1, wire_type::VARINT).raw(&varint(payload.len() as u64)).raw(&payload),
                new().bytes(4, &text),
                new().bytes(3, &text),
                new().bytes(10, &text),
            ])
        };
    wrong_wire_types_below: "the same in a sub-message that no rule reads, whose end the decoder then runs over",
        off "grpc-js: handler; tonic: INTERNAL; harmless", on "protobuf_wire_type",
        good "grpc-go: protobuf_wire_type; grpc-js: protobuf_wire_type; grpcio: protobuf_wire_type; refused",
        |v| calls([behind(new().bytes(20, [8, 3]), v), behind(new().bytes(26, [8, 3]), v)]);
    ends_that_are_not_kept: "a string, a number or a packed one without an end in a sub-message or a list that no rule reads",
        off "grpc-js: handler; INTERNAL", on "protobuf_length", good "grpc-go: protobuf_length; grpc-js: protobuf_length; refused",
        |v| {
            // for protobuf.js the number goes on in the tag of the field behind it, and that field's length is a tag
            let mut hidden = vec![1];
            hidden.extend(new().bytes(1, v.text()).bytes);
            let rest = 224 - hidden.len() - 4;
            hidden.extend(new().bytes(28, vec![0; rest]).bytes);
            let list = new().bytes(24, [0x80]).bytes(900, &hidden);
            let number = new().bytes(20, [0x18, 0x80]).bytes(900, &hidden);
            let string = behind(new().bytes(20, [0x0a, 3]), v);
            let entry = behind(new().bytes(25, [0x0a, 3]), v);
            calls([list, number, string, entry])
        };
    maps_of_another_wire_type: "a map with the wire type of a number or of a group, which hides what follows from who heeds it; prost does not",
        off "grpc-go: harmless; grpcio: harmless; handler", on "protobuf_map", good "protobuf_map",
        |v| {
            let number = u8::try_from(v.number() & 0x7f).unwrap() | 0x80;
            // for prost an entry of no bytes, the number, and `flag` twice
            let fixed = new().tag(25, wire_type::I64).raw(&[0, 0x20, number, 5, 0x18, 0, 0x18, 0]);
            // for prost an entry of 13 bytes; for others a field of four bytes, two of a varint and one of four bytes
            let entry = [0x0d, 0x18, 0, 0x18, 0, 0x18, 0, 0x18, 0, 0x1d, 0, 0, 0, 0];
            let group = new().tag(25, wire_type::SGROUP).raw(&entry).bytes(1, v.text()).tag(25, wire_type::EGROUP);
            calls([fixed, group.raw(&entry)])
        };
    wire_types_6_and_7: "the wire types 6 and 7, on known and unknown fields",
        off "grpc-js: INTERNAL / handler; INTERNAL", on "protobuf_tag", good "grpc-go: protobuf_tag; grpc-js: protobuf_tag; refused",
        |v| [6, 7].into_iter().flat_map(|wire| calls([
            new().tag(1, wire).raw(&[6]).raw(v.text().as_bytes()),
            new().tag(900, wire).bytes(1, v.text()),
        ])).collect();
    field_number_0: "a field of number 0 before the denied one", off "grpc-js: handler; INTERNAL", on "protobuf_tag", good "grpc-go: protobuf_tag; grpc-js: protobuf_tag; refused",
        |v| calls([new().varint(0, 1).bytes(1, v.text()), new().bytes(0, v.text()).bytes(1, v.text())]);
    largest_field_number: "a field of number 2^29 - 1 before the denied one",
        off "handler", on "text", good "allowed",
        |v| calls([new().varint(0x1fff_ffff, 1).bytes(1, v.text()), new().bytes(0x1fff_ffff, "x").bytes(1, v.text())]);
    nesting_past_the_bound: "40 groups, or 40 sub-messages of an unread kind, before the denied field",
        off "handler", on "message_depth / text", good "allowed / message_depth",
        |v| {
            let groups = (0..40).fold(new(), |inside, _| new().group(200, &inside));
            let bytes = (0..40).fold(new(), |inside, _| new().message(903, &inside));
            calls([groups.bytes(1, v.text()), bytes.bytes(1, v.text())])
        };
    packed_singular_numbers: "a singular number in packed form", off "grpc-go: harmless; grpcio: harmless; INTERNAL", on "protobuf_wire_type", good "grpc-go: protobuf_wire_type; grpc-js: protobuf_wire_type; grpcio: protobuf_wire_type; refused",
        |v| calls([new().packed(4, &[v.number()]), new().packed(6, &[1, v.number()])]);
    packed_and_unpacked_lists: "a repeated field packed and not, before the denied one", off "handler", on "text", good "allowed",
        |v| calls([
            new().packed(24, &[1, 2, 300]).bytes(1, v.text()),
            new().varint(24, 1).packed(24, &[2]).varint(24, 3).bytes(1, v.text()),
        ]);
    invalid_utf8: "a string that is not UTF-8, with the denied text in it",
        off "grpc-js: handler; INTERNAL", on "utf8", good "grpc-go: utf8; grpc-js: utf8; refused",
        |v| [&b"\xff"[..], b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe4"]
            .iter()
            .flat_map(|bad| calls([
                new().bytes(1, [bad, v.text().as_bytes()].concat()), new().bytes(1, [v.text().as_bytes(), bad].concat()),
            ]))
            .collect();
    text_with_nul: "NUL before, in and behind the denied text", off "handler", on "text", good "allowed",
        |v| ["\0*", "*\0", "\0*\0"].map(|form| call(&new().bytes(1, form.replace('*', v.text())))).to_vec();
    truncated_messages: "a message that ends within a tag, a length, a string or a number, behind the denied field",
        off "INTERNAL", on "protobuf_length", good "grpc-go: protobuf_length; grpc-js: protobuf_length; refused",
        |v| [&[0x80][..], &[0x12], &[0x12, 0x80], &[0x12, 5, 1], &[0x20], &[0x20, 0x80], &[0x55, 1], &[0x59, 1]]
            .map(|end| call(&new().bytes(1, v.text()).raw(end)))
            .to_vec();
    lengths_past_their_message: "a length past the sub-message or the message, or negative, behind or around the denied field",
        off "grpc-js: INTERNAL / handler; INTERNAL", on "protobuf_length / protobuf_long_varint", good "grpc-go: protobuf_length / protobuf_long_varint; grpc-js: protobuf_length / protobuf_long_varint; refused",
        |v| calls([
            new().bytes(1, v.text()).bytes_claiming(2, 9, 0, b"x"),
            new().bytes(1, v.text()).bytes_claiming(2, u64::MAX, 0, b"x"),
            new().bytes(1, v.text()).bytes_claiming(2, 1 << 32, 0, b""),
            new().bytes(17, [0x0a, 9]).bytes(1, v.text()).varint(4, 1),
        ]);
    trailing_bytes: "zeros and other bytes behind the denied field", off "INTERNAL", on "protobuf_length / protobuf_tag", good "grpc-go: protobuf_length / protobuf_tag; grpc-js: protobuf_length / protobuf_tag; refused",
        |v| [&[0][..], &[0, 0, 0], &[0xff], &[0x07, 1]].map(|end| call(&new().bytes(1, v.text()).raw(end))).to_vec();
    text_in_bytes: "the denied text in a field of bytes", off "handler", on "payload", good "allowed",
        |v| calls([new().bytes(2, v.text()), new().bytes(2, [b"\xff\0", v.text().as_bytes()].concat())]);
}
