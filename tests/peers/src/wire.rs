//! Protobuf's wire format, written field by field as a test wants it, right or wrong.

/// Wire types.
#[allow(missing_docs)]
pub mod wire_type {
    pub const VARINT: u8 = 0;
    pub const I64: u8 = 1;
    pub const LEN: u8 = 2;
    pub const SGROUP: u8 = 3;
    pub const EGROUP: u8 = 4;
    pub const I32: u8 = 5;
}

/// A message being written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// The bytes so far.
    pub bytes: Vec<u8>,
}

/// A varint in as few bytes as it takes.
pub fn varint(value: u64) -> Vec<u8> {
    overlong(value, 0)
}

/// A varint with so many bytes more than it takes.
pub fn overlong(mut value: u64, extra: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(0x80 | (value & 0x7f) as u8);
        value >>= 7;
    }
    if extra == 0 {
        out.push(value as u8);
    } else {
        out.push(0x80 | value as u8);
        out.extend(std::iter::repeat_n(0x80, extra - 1));
        out.push(0);
    }
    out
}

impl Message {
    /// An empty message.
    pub fn new() -> Self {
        Self::default()
    }

    /// Any bytes.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    /// A tag, with any wire type.
    pub fn tag(self, field: u32, wire_type: u8) -> Self {
        self.raw(&varint(u64::from(field) << 3 | u64::from(wire_type)))
    }

    /// A tag with so many bytes more than it takes.
    pub fn long_tag(self, field: u32, wire_type: u8, extra: usize) -> Self {
        self.raw(&overlong(u64::from(field) << 3 | u64::from(wire_type), extra))
    }

    /// A varint field: any integer (cast it), bool, enum.
    pub fn varint(self, field: u32, value: u64) -> Self {
        self.tag(field, wire_type::VARINT).raw(&varint(value))
    }

    /// A varint field with so many bytes more than it takes.
    pub fn overlong(self, field: u32, value: u64, extra: usize) -> Self {
        self.tag(field, wire_type::VARINT).raw(&overlong(value, extra))
    }

    /// A sint32 or sint64 field.
    pub fn zigzag(self, field: u32, value: i64) -> Self {
        self.varint(field, (value << 1 ^ value >> 63) as u64)
    }

    /// A fixed32, sfixed32 or float field.
    pub fn fixed32(self, field: u32, value: [u8; 4]) -> Self {
        self.tag(field, wire_type::I32).raw(&value)
    }

    /// A fixed64, sfixed64 or double field.
    pub fn fixed64(self, field: u32, value: [u8; 8]) -> Self {
        self.tag(field, wire_type::I64).raw(&value)
    }

    /// A string, bytes, message or packed field.
    pub fn bytes(self, field: u32, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        self.tag(field, wire_type::LEN).raw(&varint(value.len() as u64)).raw(value)
    }

    /// A length-delimited field whose length tells something else than what follows, in any number of bytes.
    pub fn bytes_claiming(self, field: u32, length: u64, extra: usize, value: &[u8]) -> Self {
        self.tag(field, wire_type::LEN).raw(&overlong(length, extra)).raw(value)
    }

    /// A sub-message.
    pub fn message(self, field: u32, value: &Self) -> Self {
        self.bytes(field, &value.bytes)
    }

    /// A packed field of varints.
    pub fn packed(self, field: u32, values: &[u64]) -> Self {
        let body: Vec<u8> = values.iter().flat_map(|value| varint(*value)).collect();
        self.bytes(field, body)
    }

    /// A group around these fields.
    pub fn group(self, field: u32, inner: &Self) -> Self {
        self.tag(field, wire_type::SGROUP).raw(&inner.bytes).tag(field, wire_type::EGROUP)
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::proto::echo::EchoRequest;

    #[test]
    fn prost_reads_what_is_written() {
        let inner = Message::new().bytes(1, "ignored");
        let message = Message::new()
            .bytes(1, "hi")
            .overlong(4, 7, 3)
            .varint(5, -5i64 as u64)
            .zigzag(9, -3)
            .fixed32(14, 1.5f32.to_le_bytes())
            .fixed64(15, 2.5f64.to_le_bytes())
            .group(200, &inner)
            .long_tag(6, wire_type::VARINT, 2)
            .raw(&varint(300))
            .packed(24, &[1, 2, 300]);
        let read = EchoRequest::decode(message.bytes.as_slice()).expect("it decodes");
        assert_eq!((read.text.as_str(), read.i32, read.i64, read.s64, read.u32), ("hi", 7, -5, -3, 300));
        assert_eq!((read.f, read.d, read.numbers), (1.5, 2.5, vec![1, 2, 300]));
    }
}
