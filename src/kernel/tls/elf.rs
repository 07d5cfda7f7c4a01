//! Functions in a file: where they are, and what kind of TLS a file has whose functions have no names.

use std::collections::HashMap;
use std::fs::File;

use object::read::{ReadCache, ReadRef};
use object::{Object, ObjectSegment, ObjectSymbol};

/// A function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Function {
    /// Where in the file it begins.
    pub offset: u64,
    /// Where it is, relative to the others.
    pub address: u64,
}

/// What was looked for in a file.
#[derive(Debug, Default)]
pub struct Symbols {
    functions: HashMap<String, Function>,
    kind: &'static str,
}

impl Symbols {
    /// Reads an ELF file's exported symbols; any of `names` that is a function in it is kept.
    pub fn read(file: &File, names: &[&str]) -> Result<Self, String> {
        let cache = ReadCache::new(file);
        let Ok(elf) = object::File::parse(&cache) else { return Ok(Self::default()) };
        let mut found = Self::default();
        for symbol in elf.dynamic_symbols().filter(|symbol| symbol.is_definition()) {
            let Ok(name) = symbol.name() else { continue };
            if name == "gnutls_record_recv" {
                found.kind = "GnuTLS, which is not hooked";
            }
            if names.contains(&name)
                && let Some(function) = place(&elf, symbol.address())
            {
                found.functions.insert(name.to_owned(), function);
            }
        }
        if found.kind.is_empty() && elf.section_by_name(".gopclntab").is_some() {
            found.kind = "a Go program, whose crypto/tls is not hooked";
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

fn place<'data, R: ReadRef<'data>>(elf: &object::File<'data, R>, address: u64) -> Option<Function> {
    elf.segments().find_map(|segment| {
        let into = address.checked_sub(segment.address()).filter(|into| *into < segment.size())?;
        Some(Function { offset: segment.file_range().0 + into, address })
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
