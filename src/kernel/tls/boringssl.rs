//! BoringSSL in a file whose functions have no names, as in grpcio: they are known by the errors that they report.
//!
//! Each of BoringSSL's complaints is a call of `ERR_put_error` with the library's number, a reason, and the name of the source
//! file. Reasons keep their numbers from version to version, a public function reports ones that few others do, and where
//! functions begin the tables for exceptions say. A function that is looked for has to be the only one like it; else nothing of the
//! file is hooked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

use memchr::memmem;
use object::read::ReadCache;
use object::{Object, ObjectSection};

use super::code;
use super::elf::{Function, place};
use crate::abi;

/// What there is to hook.
#[derive(Debug)]
pub struct Found {
    pub calls: Vec<(u32, Function)>,
    /// `SSL_new`, which returns an object.
    pub new: Function,
    /// Does nothing but fail if its second argument is null.
    pub failure: Function,
    /// Whether `SSL_write` refuses negative lengths.
    pub refuses_lengths: bool,
    /// Where objects have the client's random number, as in `pg_tls_library`.
    pub random_at: u32,
}

/// Reasons of openssl/err.h and openssl/ssl.h.
const SHOULD_NOT_HAVE_BEEN_CALLED: u32 = 66;
const PASSED_NULL_PARAMETER: u32 = 67;
const BAD_LENGTH: u32 = 111;
const CONNECTION_TYPE_NOT_SET: u32 = 134;
const NULL_SSL_CTX: u32 = 185;
const SSL_HANDSHAKE_FAILURE: u32 = 215;
const UNINITIALIZED: u32 = 226;
const APPLICATION_DATA_ON_SHUTDOWN: u32 = 291;

/// `SSL_do_handshake`, `SSL_connect` and `SSL_accept`: the compiler may have made one of them, or put it into the others.
const MOST_SHAKES: usize = 3;
/// What a section can have; whoever wrote the file may have written anything.
const MOST_ADDRESS: u64 = 1 << 47;
const MOST_BYTES: u64 = 64 << 20;
const MOST_FUNCTIONS: usize = 1 << 20;
const MOST_PATH: usize = 4096;
/// Functions of one source that report errors: there are some seventy.
const MOST_REPORTING: usize = 1024;
/// The tables for exceptions say where each function begins, relative to the table, in order (LSB 5.0, section 10.6.2).
const TABLE: [u8; 4] = [1, 0x1b, 0x03, 0x3b];
const TABLE_HEAD: usize = 12;

/// Finds the functions; nothing if there is no BoringSSL, or one that is not known so.
pub fn find(file: &File) -> Option<Found> {
    let cache = ReadCache::new(file);
    let elf = object::File::parse(&cache).ok()?;
    let section = |name| {
        let section = elf.section_by_name(name)?;
        let sane = section.address() < MOST_ADDRESS && section.size() < MOST_BYTES;
        if sane { Some((section.address(), section.data().ok()?)) } else { None }
    };
    let texts = section(".rodata")?;
    let (library, keys) = (source(texts, "ssl/ssl_lib.c")?, source(texts, "ssl/ssl_privkey.c")?);
    let (at, bytes) = section(".text")?;
    let code = Code { at, bytes, begins: begins(section(".eh_frame_hdr")?, at, bytes)? };
    let errors = code.errors(&library)?;

    // Which functions report the first reasons, and none of the second.
    let reporting = |these: &[u32], none: &[u32]| -> Vec<usize> {
        let fits = |reasons: &BTreeSet<u32>| {
            these.iter().all(|it| reasons.contains(it)) && !none.iter().any(|it| reasons.contains(it))
        };
        errors.iter().filter(|(_, reasons)| fits(reasons)).map(|(function, _)| *function).collect()
    };
    let read_impl = only(&reporting(&[UNINITIALIZED, SSL_HANDSHAKE_FAILURE], &[SHOULD_NOT_HAVE_BEEN_CALLED]))?;
    let write = only(&reporting(&[UNINITIALIZED, SSL_HANDSHAKE_FAILURE, SHOULD_NOT_HAVE_BEEN_CALLED], &[]))?;
    let new = only(&reporting(&[NULL_SSL_CTX], &[]))?;
    let shutdown = only(&reporting(&[UNINITIALIZED, APPLICATION_DATA_ON_SHUTDOWN], &[]))?;
    let shakes = reporting(&[CONNECTION_TYPE_NOT_SET], &[]);
    let (read, peek) = code.readers(read_impl, shutdown, &errors)?;
    if shakes.is_empty() || shakes.len() > MOST_SHAKES {
        return None;
    }

    let (first, last) = (*errors.first_key_value()?.0, *errors.last_key_value()?.0);
    let (via, at) = code.random(first, last)?;
    let failure = code.errors(&keys)?.into_keys().find(|function| {
        code::fails_without_second(code.of(*function), code.begin(*function), &keys) == Some(PASSED_NULL_PARAMETER)
    })?;

    // A hook has to be at a beginning. The compiler puts parts of functions elsewhere, and calls those functions too.
    let hooked = [read, peek, write, shutdown, new, failure].into_iter().chain(shakes.iter().copied());
    if code.branches_to(&hooked.map(|it| code.begin(it)).collect()) || code.callers(read).is_empty() {
        return None;
    }
    let function = |index: usize| {
        let (offset, address) = place(&elf, code.begin(index))?;
        Some(Function { offset, address, size: code.of(index).len() as u64 })
    };
    let mut calls = vec![
        (abi::PG_FN_READ, function(read)?),
        (abi::PG_FN_PEEK, function(peek)?),
        (abi::PG_FN_WRITE, function(write)?),
        (abi::PG_FN_SHAKE, function(shutdown)?),
    ];
    for shake in shakes {
        calls.push((abi::PG_FN_SHAKE, function(shake)?));
    }
    Some(Found {
        calls,
        new: function(new)?,
        failure: function(failure)?,
        refuses_lengths: errors.get(&write)?.contains(&BAD_LENGTH),
        random_at: via << abi::PG_RANDOM_VIA | at,
    })
}

fn only<T: Copy>(found: &[T]) -> Option<T> {
    if let [it] = found { Some(*it) } else { None }
}

/// Where a source file's name begins: any path of it, of C or C++.
fn source((at, texts): (u64, &[u8]), name: &str) -> Option<BTreeSet<u64>> {
    let mut found = BTreeSet::new();
    for end in memmem::find_iter(texts, name) {
        let rest = texts.get(end + name.len()..)?;
        if !rest.starts_with(b"\0") && !rest.starts_with(b"c\0") {
            continue;
        }
        // A file may be made of such names alone.
        let path = texts.get(end.saturating_sub(MOST_PATH)..end)?;
        let begin = memchr::memrchr(0, path).map_or(path.len(), |zero| path.len() - zero - 1);
        found.insert(at + (end - begin) as u64);
        if found.len() > MOST_REPORTING {
            return None;
        }
    }
    (!found.is_empty()).then_some(found)
}

/// Where functions begin, in order.
fn begins((at, table): (u64, &[u8]), text: u64, bytes: &[u8]) -> Option<Vec<u64>> {
    let head = table.first_chunk::<TABLE_HEAD>()?;
    let (kinds, count) = (head.first_chunk::<4>()?, head.last_chunk::<4>()?);
    let entries = table.get(TABLE_HEAD..)?.chunks_exact(8).take(u32::from_le_bytes(*count) as usize);
    let begins = entries.filter_map(|entry| {
        let begin = i32::from_le_bytes(*entry.first_chunk()?);
        Some(at.wrapping_add_signed(begin.into()))
    });
    let within = text..text + bytes.len() as u64;
    let begins: Vec<u64> = begins.filter(|begin| within.contains(begin)).take(MOST_FUNCTIONS).collect();
    let whole = !begins.is_empty() && begins.len() < MOST_FUNCTIONS;
    (*kinds == TABLE && begins.is_sorted() && whole).then_some(begins)
}

/// All functions of a file, by number.
struct Code<'data> {
    at: u64,
    bytes: &'data [u8],
    begins: Vec<u64>,
}

impl Code<'_> {
    fn begin(&self, function: usize) -> u64 {
        self.begins.get(function).copied().unwrap_or(self.at + self.bytes.len() as u64)
    }

    /// A function's code.
    fn of(&self, function: usize) -> &[u8] {
        let offset = |address: u64| usize::try_from(address - self.at).unwrap_or(usize::MAX);
        self.bytes.get(offset(self.begin(function))..offset(self.begin(function + 1))).unwrap_or_default()
    }

    /// The function that has an offset in the code.
    fn function_at(&self, offset: usize) -> Option<usize> {
        let address = self.at + offset as u64;
        self.begins.partition_point(|begin| *begin <= address).checked_sub(1)
    }

    /// Which functions report errors of a source file, and which.
    fn errors(&self, source: &BTreeSet<u64>) -> Option<BTreeMap<usize, BTreeSet<u32>>> {
        let mut found = BTreeMap::new();
        for offset in memmem::find_iter(self.bytes, code::NAME_AS_ARGUMENT) {
            let Some(function) = self.function_at(offset) else { continue };
            if self.refers(offset + code::NAME_AS_ARGUMENT.len()).is_some_and(|to| source.contains(&to)) {
                found.entry(function).or_insert_with(|| code::errors(self.of(function), self.begin(function), source));
            }
            if found.len() > MOST_REPORTING {
                return None;
            }
        }
        Some(found)
    }

    /// What the four bytes at an offset refer to, if they end an instruction.
    fn refers(&self, offset: usize) -> Option<u64> {
        let distance = i32::from_le_bytes(*self.bytes.get(offset..)?.first_chunk()?);
        Some((self.at + offset as u64 + 4).wrapping_add_signed(distance.into()))
    }

    /// Whether a conditional branch goes to one of these addresses: it is within a function then.
    fn branches_to(&self, these: &BTreeSet<u64>) -> bool {
        memchr::memchr_iter(code::TWO_BYTES, self.bytes).any(|offset| {
            let branch = self.bytes.get(offset + 1).is_some_and(|it| code::BRANCHES.contains(it));
            branch && self.refers(offset + 2).is_some_and(|to| these.contains(&to))
        })
    }

    /// Which functions call another, or go on in it.
    fn callers(&self, function: usize) -> BTreeSet<usize> {
        let target = self.begin(function);
        let calls = memchr::memchr2_iter(code::CALL, code::JUMP, self.bytes);
        calls
            .filter(|offset| self.refers(offset + 1) == Some(target))
            .filter_map(|offset| self.function_at(offset))
            .collect()
    }

    /// `SSL_read` and `SSL_peek`. Beside `SSL_shutdown`, which only complains of plaintext, no other reads records. The first does
    /// all that the second does, and discards what it has read.
    fn readers(
        &self,
        read_impl: usize,
        shutdown: usize,
        errors: &BTreeMap<usize, BTreeSet<u32>>,
    ) -> Option<(usize, usize)> {
        let callers: Vec<usize> = self.callers(read_impl).into_iter().filter(|it| *it != shutdown).collect();
        let [one, other] = callers[..] else { return None };
        let alike = BTreeSet::from([SHOULD_NOT_HAVE_BEEN_CALLED]);
        if [one, other].iter().any(|it| errors.get(it) != Some(&alike)) {
            return None;
        }
        let calls = |function| code::calls(self.of(function), self.begin(function));
        let (one_calls, other_calls) = (calls(one), calls(other));
        if one_calls.len() > other_calls.len() && one_calls.is_superset(&other_calls) {
            Some((one, other))
        } else if other_calls.len() > one_calls.len() && other_calls.is_superset(&one_calls) {
            Some((other, one))
        } else {
            None
        }
    }

    /// Where objects have the client's random number: a field of a field. `SSL_get_client_random` and `SSL_get_server_random` are
    /// neighbours that differ in that alone, and the server's number comes first.
    fn random(&self, first: usize, last: usize) -> Option<(u32, u32)> {
        let getters: Vec<Option<(u32, u32)>> =
            (first..=last).map(|function| code::random_getter(self.of(function))).collect();
        let pairs: Vec<(u32, u32)> = getters
            .windows(2)
            .filter_map(|pair| {
                let [Some(one), Some(other)] = pair else { return None };
                (one.0 == other.0 && one.1.abs_diff(other.1) == code::RANDOM).then_some((one.0, one.1.max(other.1)))
            })
            .collect();
        only(&pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_sources_are_found_by_their_ends() {
        let texts = b"x\0third_party/src/ssl/ssl_lib.cc\0ssl/ssl_lib.c\0ssl/ssl_lib.cpp\0other/ssl/ssl_lib.cc";
        assert_eq!(source((0x1000, texts), "ssl/ssl_lib.c"), Some(BTreeSet::from([0x1002, 0x1021])));
        assert_eq!(source((0x1000, texts), "ssl/ssl_privkey.c"), None);
    }

    #[test]
    fn a_file_that_is_all_names_costs_no_more_than_another() {
        let began = std::time::Instant::now();
        let endless = "ssl/ssl_lib.c".repeat(1 << 20);
        assert_eq!(source((0, endless.as_bytes()), "ssl/ssl_lib.c"), None);
        let many = "x/ssl/ssl_lib.c\0".repeat(1 << 20);
        assert_eq!(source((0, many.as_bytes()), "ssl/ssl_lib.c"), None);
        assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
    }

    #[test]
    fn the_table_says_where_functions_begin() {
        let mut table = vec![1, 0x1b, 0x03, 0x3b, 0, 0, 0, 0, 3, 0, 0, 0];
        for begin in [-0x1000_i32, -0xff0, 0x100] {
            table.extend(begin.to_le_bytes());
            table.extend([0; 4]);
        }
        let text = [0x90; 64];
        assert_eq!(begins((0x5000, &table), 0x4000, &text), Some(vec![0x4000, 0x4010]));
        table[3] = 0x1b;
        assert_eq!(begins((0x5000, &table), 0x4000, &text), None);
    }

    #[test]
    fn other_files_have_none() {
        assert!(find(&File::open(std::env::current_exe().unwrap()).unwrap()).is_none());
    }
}
