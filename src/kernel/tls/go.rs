//! Go's crypto/tls in a program: where its functions are and end, by the table that every Go program carries for its own stack
//! traces, stripped or not.

use std::fs::File;

use object::read::{ReadCache, ReadRef};
use object::{Object, ObjectSection, ObjectSegment};

use super::code;

/// A function of a Go program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Where in the file it goes on when it has stack enough.
    pub offset: u64,
    /// Where in the file it returns.
    pub returns: Vec<u64>,
}

/// What is hooked; it is in every program that can use crypto/tls.
pub const NEEDED: [&str; 3] =
    ["crypto/tls.(*Conn).Read", "crypto/tls.(*Conn).Write", "crypto/tls.(*Conn).handshakeContext"];

/// The table's versions: Go 1.18, and 1.20 and later. Before 1.17 arguments were on the stack.
const MAGIC: [u32; 2] = [0xffff_fff0, 0xffff_fff1];
const OLDER: [u32; 2] = [0xffff_fffa, 0xffff_fffb];
/// Instructions of one byte or more, pointers of eight.
const SIZES: u32 = 0x0801_0000;
const HEAD: u64 = 72;
const TABLES: [&str; 2] = [".gopclntab", ".data.rel.ro.gopclntab"];
const MERGED: &str = ".data.rel.ro";
const MODULE: &str = ".go.module";
/// Its words, by their number: where the code begins, and the first function.
const MODULE_TEXT: u64 = 22;
const MODULE_FIRST: u64 = 20;
const LONGEST_NAME: u64 = 256;
const LONGEST_FUNCTION: u64 = 1 << 20;

/// Finds the functions; nothing if this is no Go program, or one without crypto/tls. An error says why it cannot be hooked.
pub fn find(file: &File) -> Result<Option<Vec<Function>>, String> {
    let cache = ReadCache::new(file);
    let Ok(elf) = object::File::parse(&cache) else { return Ok(None) };
    let unreadable = |e| format!("a Go program whose table of functions cannot be read: {e}");
    let Some((at, bytes)) = table(&elf).map_err(unreadable)? else { return Ok(None) };
    let table = Table(bytes);
    let magic = table.u32(0)?;
    if OLDER.contains(&magic) {
        return Err("a Go program, of a Go before 1.18, whose calls cannot be hooked".to_owned());
    }
    if !MAGIC.contains(&magic) || table.u32(4)? != SIZES {
        return Err("a Go program whose table of functions is of an unknown version".to_owned());
    }
    let text = match table.u64(24)? {
        0 => text(&elf, at).ok_or("a Go program that does not say where its functions begin")?,
        start => start,
    };
    let found = table.functions(text, &NEEDED)?;
    if found.iter().all(Option::is_none) {
        return Ok(None);
    }
    let mut functions = Vec::new();
    for (found, name) in found.into_iter().zip(NEEDED) {
        let (from, to) = found.ok_or_else(|| format!("a Go program with crypto/tls, but without `{name}`"))?;
        functions
            .push(place(&elf, &cache, from, to).ok_or_else(|| format!("a Go program whose `{name}` cannot be read"))?);
    }
    Ok(Some(functions))
}

/// The table, and where it is in memory. A linker for C may have laid it into a section of another name.
fn table<'data, R: ReadRef<'data>>(elf: &object::File<'data, R>) -> object::Result<Option<(u64, &'data [u8])>> {
    if let Some(section) = TABLES.iter().find_map(|name| elf.section_by_name(name)) {
        return Ok(Some((section.address(), section.data()?)));
    }
    let Some(section) = elf.section_by_name(MERGED) else { return Ok(None) };
    let data = section.data()?;
    let head = |magic: u32| [magic.to_le_bytes(), SIZES.to_le_bytes()].concat();
    let found = MAGIC.iter().find_map(|magic| memchr::memmem::find(data, &head(*magic)));
    Ok(found.and_then(|at| Some((section.address() + at as u64, data.get(at..)?))))
}

/// Where functions begin, if the table does not say so: Go 1.26 left that to `runtime.moduledata`, which begins with the table's
/// address. C code of the same program may come before them.
fn text<'data, R: ReadRef<'data>>(elf: &object::File<'data, R>, table: u64) -> Option<u64> {
    let module = Table(elf.section_by_name(MODULE)?.data().ok()?);
    let word = |index: u64| module.u64(8 * index).ok();
    let (text, first) = (word(MODULE_TEXT)?, word(MODULE_FIRST)?);
    (word(0)? == table && text == first && text != 0).then_some(text)
}

fn place<'data, R: ReadRef<'data>>(elf: &object::File<'data, R>, data: R, from: u64, to: u64) -> Option<Function> {
    let offset = elf.segments().find_map(|segment| {
        let into = from.checked_sub(segment.address()).filter(|into| *into < segment.size())?;
        Some(segment.file_range().0 + into)
    })?;
    let length = to.checked_sub(from).filter(|length| *length < LONGEST_FUNCTION)?;
    let bytes = data.read_bytes_at(offset, length).ok()?;
    let returns = code::returns(bytes)?.into_iter().map(|at| offset + at).collect();
    Some(Function { offset: offset + code::after_stack_check(bytes)?, returns })
}

/// Go's `runtime.pcHeader` and what follows it.
struct Table<'data>(&'data [u8]);

impl Table<'_> {
    fn bytes(&self, at: u64, length: u64) -> Result<&[u8], String> {
        let range = usize::try_from(at).ok().zip(at.checked_add(length).and_then(|end| usize::try_from(end).ok()));
        let bytes = range.and_then(|(from, to)| self.0.get(from..to));
        bytes.ok_or_else(|| "a Go program whose table of functions cannot be read".to_owned())
    }

    fn u32(&self, at: u64) -> Result<u32, String> {
        Ok(self.bytes(at, 4)?.first_chunk().copied().map(u32::from_le_bytes).unwrap_or_default())
    }

    fn u64(&self, at: u64) -> Result<u64, String> {
        Ok(self.bytes(at, 8)?.first_chunk().copied().map(u64::from_le_bytes).unwrap_or_default())
    }

    /// Where each of `names` begins and the function behind it does.
    fn functions(&self, text: u64, names: &[&str]) -> Result<Vec<Option<(u64, u64)>>, String> {
        let (count, texts, functions) = (self.u64(8)?, self.u64(32)?, self.u64(64)?);
        if functions < HEAD {
            return Err("a Go program whose table of functions cannot be read".to_owned());
        }
        let rows = self.bytes(functions, count.saturating_mul(8).saturating_add(4))?;
        let word = |at: usize| rows.get(at..at + 4).and_then(|b| b.first_chunk().copied()).map(u32::from_le_bytes);
        let mut found = vec![None; names.len()];
        for row in 0..usize::try_from(count).unwrap_or_default() {
            let (Some(entry), Some(about), Some(next)) = (word(row * 8), word(row * 8 + 4), word(row * 8 + 8)) else {
                break;
            };
            let name = u64::from(self.u32(functions + u64::from(about) + 4)?);
            let at = texts + name;
            let text_of = self.bytes(at, LONGEST_NAME.min((self.0.len() as u64).saturating_sub(at)))?;
            let length = text_of.iter().position(|byte| *byte == 0).unwrap_or(text_of.len());
            let Some(index) = names.iter().position(|name| text_of.get(..length) == Some(name.as_bytes())) else {
                continue;
            };
            if let Some(place) = found.get_mut(index) {
                *place = Some((text + u64::from(entry), text + u64::from(next)));
            }
        }
        Ok(found)
    }
}
