//! Functions in a file: where they are, and what kind of TLS a file has whose functions have no names.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use object::read::{ReadCache, ReadRef};
use object::{Object, ObjectSegment, ObjectSymbol};

/// A function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Function {
    /// Where in the file it begins.
    pub offset: u64,
    /// Where it is, relative to the others.
    pub address: u64,
    pub(super) size: u64,
}

/// No more of a function's code is looked at.
const MOST_CODE: u64 = 512;

impl Function {
    /// The beginning of its code.
    pub fn code(self, file: &File) -> Option<Vec<u8>> {
        let mut code = vec![0; usize::try_from(self.size.min(MOST_CODE)).ok()?];
        file.read_exact_at(&mut code, self.offset).ok()?;
        Some(code)
    }
}

/// What was looked for in a file.
#[derive(Debug, Default)]
pub struct Symbols {
    functions: HashMap<String, Function>,
    kind: &'static str,
}

impl Symbols {
    /// Reads an ELF file's symbols, exported ones and others; any of `names` that is a function in it is kept.
    pub fn read(file: &File, names: &[&str]) -> Result<Self, String> {
        let cache = ReadCache::new(file);
        let Ok(elf) = object::File::parse(&cache) else { return Ok(Self::default()) };
        let mut found = Self::default();
        for symbol in elf.dynamic_symbols().chain(elf.symbols()).filter(|symbol| symbol.is_definition()) {
            let Ok(name) = symbol.name() else { continue };
            if name == "gnutls_record_recv" {
                found.kind = "GnuTLS, which is not hooked";
            }
            if names.contains(&name)
                && let Some((offset, address)) = place(&elf, symbol.address())
            {
                found.functions.insert(name.to_owned(), Function { offset, address, size: symbol.size() });
            }
        }
        Ok(found)
    }

    /// A function, if the file has it.
    pub fn get(&self, name: &str) -> Option<Function> {
        self.functions.get(name).copied()
    }

    /// What else of TLS was recognised; nothing if nothing was.
    pub fn kind(&self) -> &'static str {
        self.kind
    }
}

/// Text that is in files with TLS of these kinds, and in hardly any other.
const MARKS: [(&[u8], &str); 5] = [
    (b"rustls", "rustls"),
    (b"BoringSSL", "BoringSSL without symbols"),
    (b"boringssl", "BoringSSL without symbols"),
    (b"wolfSSL", "wolfSSL"),
    (b"mbedtls", "Mbed TLS"),
];
const CHUNK: usize = 1 << 20;
/// Of larger files only so much is searched.
const MOST_SEARCHED: u64 = 256 << 20;

/// Guesses what TLS a file has whose functions have no names.
pub fn guess(file: &File) -> Option<&'static str> {
    let longest = MARKS.iter().map(|(mark, _)| mark.len()).max().unwrap_or_default();
    let mut chunk = vec![0; CHUNK + longest];
    let mut at = 0;
    while at < MOST_SEARCHED {
        let got = file.read_at(&mut chunk, at).ok().filter(|got| *got > 0)?;
        let text = chunk.get(..got)?;
        if let Some((_, kind)) = MARKS.iter().find(|(mark, _)| memchr::memmem::find(text, mark).is_some()) {
            return Some(kind);
        }
        at += CHUNK as u64;
    }
    None
}

/// Where an address of a file is: its offset there, and the address again.
pub(super) fn place<'data, R: ReadRef<'data>>(elf: &object::File<'data, R>, address: u64) -> Option<(u64, u64)> {
    elf.segments().find_map(|segment| {
        let into = address.checked_sub(segment.address()).filter(|into| *into < segment.size())?;
        Some((segment.file_range().0 + into, address))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_a_library_are_found() {
        let own = std::env::current_exe().unwrap();
        let symbols = Symbols::read(&File::open(own).unwrap(), &["SSL_read"]).unwrap();
        assert_eq!(symbols.get("SSL_read"), None);
        let Ok(library) = File::open("/usr/lib/x86_64-linux-gnu/libc.so.6") else { return };
        let symbols = Symbols::read(&library, &["getpid", "nothing_of_that_name"]).unwrap();
        let getpid = symbols.get("getpid").unwrap();
        assert!(getpid.offset > 0 && getpid.address >= getpid.offset, "{getpid:?}");
        assert_eq!(symbols.get("nothing_of_that_name"), None);
    }
}
