//! Bytes that well- and ill-behaved clients send.

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS_FRAME: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const PRIORITY_FLAG: u8 = 0x20;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// A payload with its pad length before it and padding behind it.
pub fn padded(payload: &[u8], pad: u8) -> Vec<u8> {
    [&[pad], payload, &vec![0; usize::from(pad)][..]].concat()
}

pub fn data(stream: u32, payload: &[u8]) -> Vec<u8> {
    frame(DATA, 0, stream, payload)
}

pub fn data_end(stream: u32, payload: &[u8]) -> Vec<u8> {
    frame(DATA, END_STREAM, stream, payload)
}

pub fn headers(stream: u32, block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, block)
}

/// A gRPC message, uncompressed.
pub fn message(bytes: &[u8]) -> Vec<u8> {
    message_with(0, bytes)
}

pub fn message_with(flag: u8, bytes: &[u8]) -> Vec<u8> {
    [&[flag], &u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// A call with one message.
pub fn unary(stream: u32, path: &str, body: &[u8]) -> Vec<u8> {
    [headers(stream, &request(path)), data_end(stream, &message(body))].concat()
}

// ---- header blocks ----

/// A literal with incremental indexing, without, and never indexed: first byte, and bits of its index.
pub const INSERT: (u8, u8) = (0x40, 6);
pub const PLAIN: (u8, u8) = (0x00, 4);
pub const NEVER: (u8, u8) = (0x10, 4);

/// The fields of a gRPC request, none of which enters the dynamic table.
pub fn request(path: &str) -> Vec<u8> {
    [post(), named(PLAIN, 4, path), named(PLAIN, 31, "application/grpc"), literal(PLAIN, "te", "trailers")].concat()
}

/// `request` and more fields.
pub fn request_and(path: &str, more: &[Vec<u8>]) -> Vec<u8> {
    [request(path), more.concat()].concat()
}

/// `:method: POST` and `:scheme: http`.
pub fn post() -> Vec<u8> {
    vec![0x83, 0x86]
}

pub fn integer(first: u8, bits: u8, value: usize) -> Vec<u8> {
    let most = (1usize << bits) - 1;
    if value < most {
        return vec![first | value as u8];
    }
    let mut out = vec![first | most as u8];
    let mut rest = value - most;
    while rest >= 128 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
    out
}

pub fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
    [&integer(0, 7, text.as_ref().len()), text.as_ref()].concat()
}

pub fn huffman(text: impl AsRef<[u8]>) -> Vec<u8> {
    let mut code = Vec::new();
    httlib_huffman::encode(text.as_ref(), &mut code).unwrap();
    raw_huffman(&code)
}

/// A string said to be Huffman-coded.
pub fn raw_huffman(code: &[u8]) -> Vec<u8> {
    [&integer(0x80, 7, code.len()), code].concat()
}

pub fn literal(form: (u8, u8), name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Vec<u8> {
    [vec![form.0], string(name), string(value)].concat()
}

/// A literal whose name is an entry's.
pub fn named(form: (u8, u8), index: usize, value: impl AsRef<[u8]>) -> Vec<u8> {
    [integer(form.0, form.1, index), string(value)].concat()
}

pub fn indexed(index: usize) -> Vec<u8> {
    integer(0x80, 7, index)
}

/// The newest dynamic entry is 0.
pub fn dynamic(age: usize) -> Vec<u8> {
    indexed(62 + age)
}

pub fn size_update(size: usize) -> Vec<u8> {
    integer(0x20, 5, size)
}

// ---- protobuf ----

pub fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 128 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// A varint in `length` bytes, of which the last ones say nothing.
pub fn long_varint(value: u64, length: usize) -> Vec<u8> {
    let mut out = varint(value);
    while out.len() < length {
        *out.last_mut().unwrap() |= 0x80;
        out.push(0);
    }
    out
}

pub fn tag(number: u32, wire: u8) -> Vec<u8> {
    varint(u64::from(number) << 3 | u64::from(wire))
}

pub fn number(field: u32, value: u64) -> Vec<u8> {
    [tag(field, 0), varint(value)].concat()
}

pub fn fixed64(field: u32, value: u64) -> Vec<u8> {
    [tag(field, 1), value.to_le_bytes().to_vec()].concat()
}

pub fn fixed32(field: u32, value: u32) -> Vec<u8> {
    [tag(field, 5), value.to_le_bytes().to_vec()].concat()
}

pub fn bytes(field: u32, value: impl AsRef<[u8]>) -> Vec<u8> {
    [tag(field, 2), varint(value.as_ref().len() as u64), value.as_ref().to_vec()].concat()
}

pub fn group(field: u32, inside: &[u8]) -> Vec<u8> {
    [&tag(field, 3), inside, &tag(field, 4)].concat()
}
