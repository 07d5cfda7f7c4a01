//! Header compression: RFC 7541.

use protocg_peers::h2raw::hpack::{self, integer};
use protocg_peers::h2raw::{Field, Indexing, Name, Str, frame, huffman};
use protocg_peers::harness::{self, Stack};

use crate::arena::Arena;
use crate::check::check_in;
use crate::row::Row;
use crate::talk::{MARK, Talk, UNARY, Value, call_of, path_call};

const FORMS: [Indexing; 3] = [Indexing::Incremental, Indexing::Without, Indexing::Never];

/// The block of a call with these fields, in their place, instead of `:path`.
fn with_path(fields: Vec<Field>) -> Vec<u8> {
    let mut all = vec![Field::Indexed(3), Field::Indexed(6), Field::plain(":authority", "a")];
    all.extend(fields);
    all.extend([Field::plain("te", "trailers"), Field::plain("content-type", "application/grpc")]);
    hpack::block(&all)
}

/// The block of a call with these fields behind the usual ones.
fn with(fields: Vec<Field>) -> Vec<u8> {
    let mut block = with_path(vec![Field::plain(":path", UNARY)]);
    fields.iter().for_each(|field| field.write(&mut block));
    block
}

fn put(name: &str, value: impl AsRef<[u8]>) -> Field {
    Field::Literal(Indexing::Incremental, Name::Literal(Str::raw(name)), Str::raw(value))
}

fn role(value: Value) -> Field {
    put("x-role", value.role())
}

/// A call with the value's role; another then refers to the dynamic table's field of this index, behind `fields`.
fn refers(first: Vec<Field>, fields: Vec<Field>, index: u64) -> Talk {
    let second = fields.into_iter().chain([Field::plain("x-mark", MARK), Field::Indexed(index)]).collect();
    Talk::new(call_of(1, &with(first))).wait(1).then(call_of(3, &with(second))).until(&[3]).marked()
}

/// A call whose block begins with table size updates, and refers to the dynamic table later on.
fn resized(sizes: &[u64], behind: Vec<Field>) -> Vec<u8> {
    let mut block = hpack::block(&sizes.iter().map(|size| Field::Size(*size)).collect::<Vec<_>>());
    block.extend(with([vec![Field::plain("x-mark", MARK)], behind].concat()));
    block
}

/// A literal `x-role` whose value's length takes `extra` bytes more than needed.
fn long_length(value: Value, extra: usize) -> Vec<u8> {
    let text = format!("{}{}", value.role(), "x".repeat(200));
    let mut field = vec![0];
    Str::raw("x-none").write(&mut field);
    integer(&mut field, 0, 7, text.len() as u64, extra);
    field.extend(text.bytes());
    let mut block = with(vec![Field::Bytes(field)]);
    Field::plain("x-role", value.role()).write(&mut block);
    block
}

/// A value in Huffman's code with this behind it.
fn coded(value: Value, behind: &[u8]) -> Field {
    let code = [&huffman::encode(value.role().as_bytes())[..], behind].concat();
    Field::Literal(Indexing::Without, Name::Literal(Str::raw("x-role")), Str::Coded(code))
}

attacks! {
    every_literal_form_of_the_path: "`:path` with its name from the static table or spelled out, with, without and never indexed, raw and in Huffman's code",
        off "handler", on "slow", good "allowed",
        |v| {
            let mut forms = Vec::new();
            for indexing in FORMS {
                for name in [Name::Index(4), Name::Index(5), Name::Literal(Str::raw(":path")), Name::Literal(Str::huffman(":path"))] {
                    for text in [Str::raw(v.path()), Str::huffman(v.path())] {
                        forms.push(Talk::new(call_of(1, &with_path(vec![Field::Literal(indexing, name.clone(), text)]))));
                    }
                }
            }
            forms
        };
    every_literal_form_of_metadata: "metadata with, without and never indexed, name and value raw and in Huffman's code",
        off "handler", on "role", good "allowed",
        |v| {
            let mut forms = Vec::new();
            for indexing in FORMS {
                for name in [Str::raw("x-role"), Str::huffman("x-role")] {
                    for text in [Str::raw(v.role()), Str::huffman(v.role())] {
                        forms.push(Talk::new(call_of(1, &with(vec![Field::Literal(indexing, Name::Literal(name.clone()), text)]))));
                    }
                }
            }
            forms
        };
    dynamic_table_references: "metadata and `:path` that an earlier call, in an earlier or in the same segment, put into the dynamic table",
        off "grpc-js: handler / harmless; handler", on "role / slow", good "allowed",
        |v| {
            let path = put(":path", v.path());
            let again = with_path(vec![Field::Indexed(62)]);
            let named = Field::Literal(Indexing::Without, Name::Index(62), Str::raw(v.role()));
            vec![
                refers(vec![role(v)], vec![], 62),
                refers(vec![put("x-role", "resident")], vec![named, put("x-a", "b")], 63),
                Talk::new([call_of(1, &with_path(vec![path.clone()])), call_of(3, &again)].concat()).until(&[1, 3]),
                Talk::new(call_of(1, &with_path(vec![path]))).wait(1).then(call_of(3, &again)).until(&[3]),
            ]
        };
    dynamic_table_references_near_eviction: "the oldest entry that is left when others have pushed one out, and an entry of exactly the table's size",
        off "grpc-js: handler / harmless; handler", on "role", good "allowed",
        |v| {
            // 38 + 8 bytes an entry: 89 of them fit into 4096, and the 90th pushes the first out
            let fill = |count: usize| (0..count).map(|i| put("x-fill", format!("{i:08}"))).collect::<Vec<_>>();
            let exact = put("x-role", format!("{}{}", v.role(), " ".repeat(0)));
            let whole = put("x-whole", "w".repeat(4096 - 32 - 7));
            let push = |before: usize, behind: usize| {
                let mut fields = fill(before);
                fields.push(role(v));
                fields.extend(fill(behind));
                fields
            };
            vec![
                refers(push(3, 85), vec![], 62 + 85),
                refers(push(50, 88), vec![], 62 + 88),
                refers(vec![role(v)], vec![whole.clone(), exact], 62),
                refers(vec![whole, role(v)], vec![], 62),
            ]
        };
    dynamic_table_references_past_eviction: "an entry that was evicted, or never was",
        off "grpc-go: close; grpc-js: GOAWAY COMPRESSION_ERROR; grpcio: INTERNAL; GOAWAY PROTOCOL_ERROR", on "hpack_index / role", good "refused",
        |v| {
            let fill = |count: usize| (0..count).map(|i| put("x-fill", format!("{i:08}"))).collect::<Vec<_>>();
            let mut first = vec![role(v)];
            first.extend(fill(89));
            vec![
                refers(first, vec![], 62 + 89),
                refers(vec![role(v)], vec![put("x-large", "x".repeat(5000))], 62),
                refers(vec![role(v)], vec![], 63),
                refers(vec![role(v)], vec![], 0),
                refers(vec![role(v)], vec![], 1 << 20),
            ]
        };
    table_size_changes: "size updates to 0, to a small size and back, in mid-connection, one or two in a block, with references behind",
        off "grpc-go: close / handler; handler", on "role", good "allowed",
        |v| {
            let first = || call_of(1, &with(vec![put("x-old", "one"), role(v), put("x-new", "two")]));
            let then = |sizes: &[u64], behind: Vec<Field>| {
                Talk::new(first()).wait(1).then(call_of(3, &resized(sizes, behind))).until(&[3]).marked()
            };
            vec![
                then(&[0, 4096], vec![put("x-a", "b"), role(v), Field::Indexed(63)]),
                then(&[0], vec![role(v)]),
                then(&[100], vec![Field::Indexed(63)]),
                then(&[86], vec![Field::Indexed(63)]),
                then(&[86, 4096], vec![put("x-a", "b"), Field::Indexed(64)]),
                then(&[4096, 4096], vec![Field::Indexed(63)]),
            ]
        };
    table_size_changes_that_are_wrong: "a size update past what the server allows, one behind the first field, three in a row, or a reference to what one evicted",
        off "grpc-go: close / handler; grpc-js: GOAWAY COMPRESSION_ERROR / handler; grpcio: INTERNAL; GOAWAY PROTOCOL_ERROR / handler", on "hpack_index / hpack_size_update / dynamic_table", good "grpcio: refused; hpack_size_update",
        |v| {
            let call = |block: &[u8]| Talk::new(call_of(1, block));
            vec![
                call(&resized(&[4097], vec![role(v)])),
                call(&resized(&[1 << 20], vec![role(v)])),
                call(&with(vec![Field::Size(0), role(v)])),
                call(&with(vec![role(v), Field::Size(4096)])),
                call(&resized(&[0, 0, 4096], vec![role(v)])),
                call(&resized(&[0], vec![role(v), Field::Indexed(62)])),
            ]
        };
    huffman_with_wrong_padding: "Huffman's code with padding of zeros, of a whole byte or more, or with its end of string",
        off "grpc-go: close; grpc-js: GOAWAY COMPRESSION_ERROR; grpcio: INTERNAL / handler; GOAWAY PROTOCOL_ERROR", on "hpack_huffman", good "grpcio: hpack_huffman; refused",
        |v| {
            let fields = [coded(v, &[0xff]), coded(v, &[0xff, 0xff]), coded(v, &[0xff; 4])];
            let mut zeros = huffman::encode(v.role().as_bytes());
            // 45 bits of code, or 43
            *zeros.last_mut().unwrap() &= if v == Value::Denied { 0xf8 } else { 0xf0 };
            let zeros = Field::Literal(Indexing::Without, Name::Literal(Str::raw("x-role")), Str::Coded(zeros));
            fields.into_iter().chain([zeros]).map(|field| Talk::new(call_of(1, &with(vec![field])))).collect()
        };
    integers_that_are_too_long: "a length with one to three needless bytes",
        off "handler", on "role", good "allowed",
        |v| (1..=2).map(|extra| Talk::new(call_of(1, &long_length(v, extra)))).collect();
    integers_that_are_much_too_long: "a length with more needless bytes than 28 bits take",
        off "grpc-go: handler; grpc-js: GOAWAY COMPRESSION_ERROR / handler; grpcio: handler; GOAWAY PROTOCOL_ERROR", on "hpack_integer", good "grpc-go: hpack_integer; grpc-js: hpack_integer; grpcio: hpack_integer; refused",
        |v| [4, 5, 8].map(|extra| Talk::new(call_of(1, &long_length(v, extra)))).to_vec();
    integers_that_overflow: "an index and a length past 32 and 64 bits, which truncated are right",
        off "grpc-go: close; grpc-js: GOAWAY COMPRESSION_ERROR; grpcio: INTERNAL; GOAWAY PROTOCOL_ERROR", on "hpack_integer / role", good "grpc-go: hpack_integer or refused; grpc-js: hpack_integer; refused",
        |v| {
            let wraps = |pattern: u8, bits: u8, high: u64, value: u64| {
                let mut out = Vec::new();
                integer(&mut out, pattern, bits, value.wrapping_add(high), 0);
                out
            };
            let path = |mut index: Vec<u8>| {
                Str::raw(v.path()).write(&mut index);
                Talk::new(call_of(1, &with_path(vec![Field::Bytes(index)])))
            };
            let indexed = |high| {
                let fields = vec![Field::plain("x-mark", MARK), Field::Bytes(wraps(0x80, 7, high, 62))];
                Talk::new([call_of(1, &with(vec![role(v)])), call_of(3, &with(fields))].concat()).until(&[3]).marked()
            };
            vec![path(wraps(0, 4, 1 << 32, 4)), path(wraps(0, 4, 1 << 40, 4)), indexed(1 << 32)]
        };
    blocks_that_end_inside_a_field: "a header block that ends inside a field, whose rest the next block begins with",
        off "grpc-go: close; grpc-js: GOAWAY COMPRESSION_ERROR; grpcio: close; GOAWAY PROTOCOL_ERROR", on "hpack_truncated", good "refused",
        |v| {
            let block = with(vec![role(v)]);
            let (one, two) = block.split_at(block.len() - 4);
            vec![Talk::new([call_of(1, one), call_of(3, two)].concat()).until(&[3])]
        };
    upper_case_names: "`X-Role`, `:Path` and `X-ROLE`, raw and in Huffman's code",
        off "grpc-go: RST_STREAM PROTOCOL_ERROR; grpc-js: RST_STREAM PROTOCOL_ERROR; grpcio: INTERNAL; GOAWAY PROTOCOL_ERROR", on "header_name", good "refused",
        |v| {
            let names = [Str::raw("X-Role"), Str::huffman("x-rolE"), Str::raw("X-ROLE")];
            let role = |name| Field::Literal(Indexing::Without, Name::Literal(name), Str::raw(v.role()));
            let mut forms: Vec<Talk> =
                names.into_iter().map(|name| Talk::new(call_of(1, &with(vec![role(name)])))).collect();
            forms.push(Talk::new(call_of(1, &with_path(vec![Field::plain(":Path", v.path())]))));
            forms
        };
    binary_values_in_the_table: "entries of true binary metadata (NUL first, Huffman's code), whose size stacks count differently, then references",
        off "grpc-go: handler; grpc-js: handler; grpcio: handler; GOAWAY PROTOCOL_ERROR", on "role", good "grpc-go: allowed; grpc-js: allowed; grpcio: allowed; refused",
        |v| {
            let binary = |n: usize| {
                let value = [&[0][..], &vec![b'a'; n]].concat();
                Field::Literal(Indexing::Incremental, Name::Literal(Str::raw("x-b-bin")), Str::huffman(value))
            };
            let mut first: Vec<Field> = (0..20).map(|_| binary(150)).collect();
            first.push(role(v));
            first.extend((0..3).map(|_| binary(100)));
            vec![refers(first, vec![], 65)]
        };
    denied_paths_by_name_only: "`:path` by the name of a dynamic entry whose own path was denied",
        off "handler", on "slow", good "allowed",
        |v| {
            let second = with_path(vec![Field::Literal(Indexing::Without, Name::Index(62), Str::huffman(v.path()))]);
            let first = with_path(vec![put(":path", v.path())]);
            vec![
                Talk::new(path_call(1, Value::Allowed)).wait(1)
                    .then([call_of(3, &first), call_of(5, &second)].concat()).until(&[3, 5]),
            ]
        };
}

/// Against servers that announce SETTINGS_HEADER_TABLE_SIZE, which only grpcio's can be told to.
pub const ANNOUNCED: &[Row] = &[
    Row {
        name: "table_of_16_kib_that_the_server_announces",
        tried: "a table of 16 KiB after the server has announced it, and a reference to what a table of 4 KiB would not hold; a size update before, \
                and one past it",
        off: "grpcio: close / handler; not tried",
        on: "hpack_size_update / role",
        good: "allowed",
        forms: |v| {
            let large = |n: usize| (0..n).map(|_| put("x-large", "x".repeat(1500))).collect::<Vec<_>>();
            let first = || Talk::new(call_of(1, &with(vec![]))).wait(1).then(frame::settings_ack());
            let fields = |n: usize, behind: Vec<Field>| [vec![role(v)], large(n), behind].concat();
            let again = |n: u64| call_of(5, &with(vec![Field::plain("x-mark", MARK), Field::Indexed(62 + n)]));
            let then = |size: u64, n: usize| {
                let call = call_of(3, &resized(&[size], fields(n, vec![])));
                first().then(call).wait(3).then(again(n as u64)).until(&[5]).marked()
            };
            vec![then(16_384, 4), then(8192, 4), then(4096, 1), then(16_385, 4)]
        },
    },
    Row {
        name: "table_of_64_bytes_that_the_server_announces",
        tried: "a table of 64 bytes that the server has announced: kept to, not kept to, and a reference to what it made the server forget",
        off: "grpcio: INTERNAL / handler; not tried",
        on: "role",
        good: "allowed",
        forms: |v| {
            let first = || Talk::new(call_of(1, &with(vec![put("x-old", "one"), role(v), put("x-a", "b")]))).wait(1);
            let again = |index| call_of(3, &with(vec![Field::plain("x-mark", MARK), Field::Indexed(index)]));
            let kept = call_of(3, &resized(&[0, 64], vec![role(v)]));
            let used = call_of(5, &with(vec![Field::plain("x-mark", MARK), Field::Indexed(62)]));
            vec![
                first().then(frame::settings_ack()).then(kept).wait(3).then(used).until(&[5]).marked(),
                first().then(again(63)).until(&[3]).marked(),
                first().then(frame::settings_ack()).then(again(63)).until(&[3]).marked(),
                first().then(frame::settings_ack()).then(again(64)).until(&[3]).marked(),
            ]
        },
    },
];

fn announced(size: &str, row: &Row) {
    if harness::skip(row.name) {
        return;
    }
    if Stack::Grpcio.lacks().is_some() {
        println!("SKIPPED {}: grpcio is not installed", row.name);
        return;
    }
    let arena = Arena::new(&[(Stack::Grpcio, "grpcio")], &["--header-table-size", size]);
    check_in(&arena, row);
}

#[test]
fn table_of_16_kib_that_the_server_announces() {
    announced("16384", &ANNOUNCED[0]);
}

#[test]
fn table_of_64_bytes_that_the_server_announces() {
    announced("64", &ANNOUNCED[1]);
}
