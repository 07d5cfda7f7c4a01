//! RFC 7541 as it is written: whole blocks to lists of fields, with texts.

use std::collections::VecDeque;
use std::sync::OnceLock;

pub type Field = (Vec<u8>, Vec<u8>);

/// The limits that the enforcer documents.
pub const BLOCK_BYTES: usize = 65536;
pub const FIELDS: usize = 1024;
pub const ENTRIES: usize = 128;
pub const TABLE_BYTES: usize = 65536;

/// Why a block cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    Malformed,
    TooLarge,
    /// It may go on: nothing is wrong with what has come.
    Partial,
}

/// A decoder's dynamic table, and what the encoder may make of it.
#[derive(Debug, Clone)]
pub struct Decoder {
    table: VecDeque<Field>,
    limit: usize,
    /// The largest size that the decoder's owner has ever announced.
    pub announced: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { table: VecDeque::new(), limit: 4096, announced: 4096 }
    }
}

fn size((name, value): &Field) -> usize {
    name.len() + value.len() + 32
}

/// The code of every byte by its length and bits, found out from an encoder: eight times the same byte fill whole bytes.
fn codes() -> &'static [Vec<(u32, u8)>; 31] {
    static CODES: OnceLock<[Vec<(u32, u8)>; 31]> = OnceLock::new();
    CODES.get_or_init(|| {
        let mut codes = [const { Vec::new() }; 31];
        for byte in 0..=255u8 {
            let mut eight = Vec::new();
            httlib_huffman::encode(&[byte; 8], &mut eight).unwrap();
            let length = eight.len();
            let first = [0, 1, 2, 3].map(|i| eight.get(i).copied().unwrap_or(0));
            codes[length].push((u32::from_be_bytes(first) >> (32 - length), byte));
        }
        codes.iter_mut().for_each(|codes| codes.sort_unstable());
        codes
    })
}

/// A Huffman-coded string, bit by bit. Its last byte may be filled up with ones, the beginning of the end-of-string symbol.
fn unhuffman(coded: &[u8], whole: bool) -> Result<Vec<u8>, Trouble> {
    let codes = codes();
    let (mut out, mut code, mut length) = (Vec::new(), 0u32, 0);
    for bit in coded.iter().flat_map(|byte| (0..8).rev().map(move |i| byte >> i & 1)) {
        code = code << 1 | u32::from(bit);
        length += 1;
        if let Ok(at) = codes[length].binary_search_by_key(&code, |(code, _)| *code) {
            out.push(codes[length][at].1);
            (code, length) = (0, 0);
        } else if length == 30 {
            return Err(Trouble::Malformed);
        }
    }
    match whole {
        false => Err(Trouble::Partial),
        true if length < 8 && code == (1 << length) - 1 => Ok(out),
        true => Err(Trouble::Malformed),
    }
}

struct Bytes<'b>(&'b [u8]);

impl<'b> Bytes<'b> {
    fn byte(&mut self) -> Result<u8, Trouble> {
        let (first, rest) = self.0.split_first().ok_or(Trouble::Partial)?;
        self.0 = rest;
        Ok(*first)
    }

    /// Four bytes beyond the prefix are more than enough for anything.
    fn integer(&mut self, first: u8, bits: u32) -> Result<usize, Trouble> {
        let most = (1usize << bits) - 1;
        let mut value = usize::from(first) & most;
        if value < most {
            return Ok(value);
        }
        for i in 0.. {
            let byte = self.byte()?;
            if i == 4 {
                break;
            }
            value += usize::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Trouble::Malformed)
    }

    fn string(&mut self) -> Result<Vec<u8>, Trouble> {
        let first = self.byte()?;
        let length = self.integer(first, 7)?;
        let (text, whole) = match self.0.split_at_checked(length) {
            Some((text, rest)) => {
                self.0 = rest;
                (text, true)
            }
            None => (self.0, false),
        };
        match first & 0x80 {
            0 if whole => Ok(text.to_vec()),
            0 => Err(Trouble::Partial),
            _ => unhuffman(text, whole),
        }
    }
}

impl Decoder {
    fn evict(&mut self, limit: usize) {
        while self.table.iter().map(size).sum::<usize>() > limit {
            self.table.pop_back();
        }
    }

    fn at(&self, index: usize) -> Result<Field, Trouble> {
        let fixed = STATIC.len();
        match index {
            0 => Err(Trouble::Malformed),
            _ if index <= fixed => Ok((STATIC[index - 1].0.into(), STATIC[index - 1].1.into())),
            _ => self.table.get(index - fixed - 1).cloned().ok_or(Trouble::Malformed),
        }
    }

    fn keep(&mut self, field: &Field) -> Result<(), Trouble> {
        if size(field) > self.limit {
            self.table.clear();
            return Ok(());
        }
        self.evict(self.limit - size(field));
        if self.table.len() == ENTRIES {
            return Err(Trouble::TooLarge);
        }
        self.table.push_front(field.clone());
        Ok(())
    }

    /// The dynamic table, newest first.
    pub fn entries(&self) -> impl Iterator<Item = &Field> {
        self.table.iter()
    }

    /// Reads a block, of which more may come. Nothing is kept of it.
    pub fn look(&self, block: &[u8]) -> Result<(), Trouble> {
        self.clone().read(block).map(drop)
    }

    /// Reads a whole block.
    pub fn decode(&mut self, block: &[u8]) -> Result<Vec<Field>, Trouble> {
        self.read(block).map_err(|trouble| if trouble == Trouble::Partial { Trouble::Malformed } else { trouble })
    }

    fn read(&mut self, block: &[u8]) -> Result<Vec<Field>, Trouble> {
        let within = &block[..block.len().min(BLOCK_BYTES)];
        match self.fields(&mut Bytes(within)) {
            Ok(_) | Err(Trouble::Partial) if block.len() > BLOCK_BYTES => Err(Trouble::TooLarge),
            other => other,
        }
    }

    fn fields(&mut self, bytes: &mut Bytes) -> Result<Vec<Field>, Trouble> {
        let (mut fields, mut updates) = (Vec::new(), 0);
        while !bytes.0.is_empty() {
            let first = bytes.byte()?;
            if first & 0xe0 == 0x20 {
                let limit = bytes.integer(first, 5)?;
                updates += 1;
                if !fields.is_empty() || updates > 2 {
                    return Err(Trouble::Malformed);
                }
                if limit > TABLE_BYTES {
                    return Err(Trouble::TooLarge);
                }
                if limit > self.announced {
                    return Err(Trouble::Malformed);
                }
                self.limit = limit;
                self.evict(limit);
                continue;
            }
            let bits = match first {
                0x80.. => 7,
                0x40.. => 6,
                _ => 4,
            };
            let index = bytes.integer(first, bits)?;
            if fields.len() == FIELDS {
                return Err(Trouble::TooLarge);
            }
            if first & 0x80 != 0 {
                fields.push(self.at(index)?);
                continue;
            }
            let name = if index == 0 { bytes.string()? } else { self.at(index)?.0 };
            let field = (name, bytes.string()?);
            if first & 0x40 != 0 {
                self.keep(&field)?;
            }
            fields.push(field);
        }
        Ok(fields)
    }
}

/// RFC 7541, appendix A; index 1 is the first.
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
