//! Header blocks, RFC 7541: every form of every field, chosen by the test, right or wrong.

use std::collections::VecDeque;

use super::huffman;

/// A string literal on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Str {
    /// Its octets.
    Raw(Vec<u8>),
    /// Its octets, Huffman encoded.
    Huffman(Vec<u8>),
    /// What stands where the Huffman code should, flagged as such.
    Coded(Vec<u8>),
}

impl Str {
    /// The octets themselves.
    pub fn raw(text: impl AsRef<[u8]>) -> Self {
        Self::Raw(text.as_ref().to_vec())
    }

    /// The octets in Huffman code.
    pub fn huffman(text: impl AsRef<[u8]>) -> Self {
        Self::Huffman(text.as_ref().to_vec())
    }

    /// Writes it.
    pub fn write(&self, out: &mut Vec<u8>) {
        let (flag, body) = match self {
            Self::Raw(text) => (0, text.clone()),
            Self::Huffman(text) => (0x80, huffman::encode(text)),
            Self::Coded(body) => (0x80, body.clone()),
        };
        integer(out, flag, 7, body.len() as u64, 0);
        out.extend(body);
    }
}

/// A field's name: in a table, or spelled out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// Its index: 1 to 61 static, from 62 dynamic.
    Index(u64),
    /// The name itself.
    Literal(Str),
}

/// What the decoder shall do with a literal field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Indexing {
    /// Add it to the dynamic table.
    Incremental,
    /// Don't.
    Without,
    /// Nor may anyone on the way.
    Never,
}

/// One representation in a header block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// A whole field from a table.
    Indexed(u64),
    /// A literal value, its name from a table or literal.
    Literal(Indexing, Name, Str),
    /// A dynamic table size update.
    Size(u64),
    /// Any bytes.
    Bytes(Vec<u8>),
}

impl Field {
    /// Name and value spelled out, not indexed, no Huffman: the form that touches no table.
    pub fn plain(name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        Self::Literal(Indexing::Without, Name::Literal(Str::raw(name)), Str::raw(value))
    }

    /// Writes it.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Indexed(index) => integer(out, 0x80, 7, *index, 0),
            Self::Size(size) => integer(out, 0x20, 5, *size, 0),
            Self::Bytes(bytes) => out.extend(bytes),
            Self::Literal(indexing, name, value) => {
                let (pattern, bits) = match indexing {
                    Indexing::Incremental => (0x40, 6),
                    Indexing::Without => (0x00, 4),
                    Indexing::Never => (0x10, 4),
                };
                match name {
                    Name::Index(index) => integer(out, pattern, bits, *index, 0),
                    Name::Literal(name) => {
                        out.push(pattern);
                        name.write(out);
                    }
                }
                value.write(out);
            }
        }
    }
}

/// A header block of these fields.
pub fn block(fields: &[Field]) -> Vec<u8> {
    let mut out = Vec::new();
    fields.iter().for_each(|field| field.write(&mut out));
    out
}

/// An integer with a prefix of so many bits under a pattern, RFC 7541 section 5.1, and `extra` octets more than needed.
pub fn integer(out: &mut Vec<u8>, pattern: u8, bits: u8, value: u64, extra: usize) {
    let most = (1u64 << bits) - 1;
    if value < most {
        return out.push(pattern | value as u8);
    }
    out.push(pattern | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(0x80 | (rest & 0x7f) as u8);
        rest >>= 7;
    }
    if extra == 0 {
        return out.push(rest as u8);
    }
    out.push(0x80 | rest as u8);
    out.extend(std::iter::repeat_n(0x80, extra - 1));
    out.push(0);
}

/// How an [`Encoder`] writes fields that it finds in no table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// What becomes of literals.
    pub indexing: Indexing,
    /// Huffman, or raw strings.
    pub huffman: bool,
    /// Refer to the tables: whole fields and names.
    pub references: bool,
}

impl Style {
    /// Touches no table, spells everything out.
    pub const PLAIN: Self = Self { indexing: Indexing::Without, huffman: false, references: false };
    /// As small as it gets: what real clients do.
    pub const SMALL: Self = Self { indexing: Indexing::Incremental, huffman: true, references: true };
}

/// An encoder that keeps the peer's dynamic table in mind, so that blocks may refer to it.
#[derive(Debug, Clone)]
pub struct Encoder {
    table: VecDeque<(Vec<u8>, Vec<u8>)>,
    size: usize,
    capacity: usize,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { table: VecDeque::new(), size: 0, capacity: 4096 }
    }
}

impl Encoder {
    /// The fields as a block in this style.
    pub fn encode<N: AsRef<[u8]>, V: AsRef<[u8]>>(&mut self, fields: &[(N, V)], style: Style) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, value) in fields {
            self.choose(name.as_ref(), value.as_ref(), style).write(&mut out);
        }
        out
    }

    /// The representation of one field in this style; the table follows.
    pub fn choose(&mut self, name: &[u8], value: &[u8], style: Style) -> Field {
        let text = |text: &[u8]| if style.huffman { Str::huffman(text) } else { Str::raw(text) };
        if style.references
            && let Some(index) = self.find(|n, v| n == name && v == value)
        {
            return Field::Indexed(index);
        }
        let known = if style.references { self.find(|n, _| n == name) } else { None };
        if style.indexing == Indexing::Incremental {
            self.insert(name, value);
        }
        Field::Literal(style.indexing, known.map_or_else(|| Name::Literal(text(name)), Name::Index), text(value))
    }

    /// A size update, followed here too.
    pub fn resize(&mut self, capacity: usize) -> Field {
        self.capacity = capacity;
        self.evict(0);
        Field::Size(capacity as u64)
    }

    /// The index of a field, static ones first.
    pub fn find(&self, same: impl Fn(&[u8], &[u8]) -> bool) -> Option<u64> {
        let fixed = STATIC.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()));
        let own = self.table.iter().map(|(n, v)| (n.as_slice(), v.as_slice()));
        fixed.chain(own).position(|(n, v)| same(n, v)).map(|place| place as u64 + 1)
    }

    /// Entries in the dynamic table, and their size.
    pub fn dynamic(&self) -> (usize, usize) {
        (self.table.len(), self.size)
    }

    /// Adds an entry as the peer does; one too large empties the table.
    pub fn insert(&mut self, name: &[u8], value: &[u8]) {
        let size = name.len() + value.len() + 32;
        self.evict(size);
        if size <= self.capacity {
            self.table.push_front((name.to_vec(), value.to_vec()));
            self.size += size;
        }
    }

    fn evict(&mut self, room: usize) {
        while self.size + room > self.capacity
            && let Some((name, value)) = self.table.pop_back()
        {
            self.size -= name.len() + value.len() + 32;
        }
    }
}

/// RFC 7541 appendix A; index 1 is the first.
#[rustfmt::skip]
pub const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""), ("etag", ""),
    ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""),
    ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: [(&str, &str); 6] = [
        (":method", "POST"),
        (":path", "/echo.Echo/Unary"),
        ("content-type", "application/grpc"),
        ("x-long", "0123456789012345678901234567890123456789"),
        ("x-a", "1"),
        ("x-a", "2"),
    ];

    fn bytes() -> Vec<(Vec<u8>, Vec<u8>)> {
        FIELDS.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec())).collect()
    }

    #[test]
    fn another_decoder_reads_every_style() {
        for indexing in [Indexing::Incremental, Indexing::Without, Indexing::Never] {
            for (huffman, references) in [(false, false), (false, true), (true, false), (true, true)] {
                let mut encoder = Encoder::default();
                let mut decoder = loona_hpack::Decoder::new();
                for _ in 0..3 {
                    let block = encoder.encode(&FIELDS, Style { indexing, huffman, references });
                    assert_eq!(decoder.decode(&block).expect("it decodes"), bytes());
                }
            }
        }
    }

    #[test]
    fn references_follow_evictions() {
        let mut encoder = Encoder::default();
        let mut decoder = loona_hpack::Decoder::new();
        let mut block = Vec::new();
        encoder.resize(150).write(&mut block);
        for _ in 0..20 {
            block.extend(encoder.encode(&FIELDS, Style::SMALL));
            assert_eq!(decoder.decode(&block).expect("it decodes"), bytes());
            assert!(encoder.dynamic().1 <= 150);
            block.clear();
        }
    }

    #[test]
    fn integers_are_the_rfc_s() {
        let mut out = Vec::new();
        integer(&mut out, 0, 5, 10, 0);
        integer(&mut out, 0, 5, 1337, 0);
        integer(&mut out, 0, 5, 1337, 2);
        assert_eq!(out, [10, 31, 154, 10, 31, 154, 138, 128, 0]);
    }
}
