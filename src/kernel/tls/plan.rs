//! What of a file is to be hooked: OpenSSL and GnuTLS by their functions' names, BoringSSL without names by its errors, Go's crypto/tls by the
//! table of functions.

use std::fs::File;

use super::elf::{Function, Symbols};
use super::{boringssl, go, names};
use crate::abi;

/// A place in a file, and the program for it.
#[derive(Debug, Clone, Copy)]
pub struct Hook {
    pub program: Program,
    /// `pg_function`
    pub function: u32,
    pub offset: u64,
    /// How far it is from there to a function that does nothing but fail.
    pub failure: u64,
    /// Not there, but where the function that begins there returns, wherever that is: the kernel catches it, by another return address.
    pub caught: bool,
}

/// Programs of bpf/tls.bpf.c.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    Enter,
    Return,
    Other,
    Bio,
    Forget,
    Loaded,
}

/// All hooks of a file.
#[derive(Debug, Default)]
pub struct Plan {
    pub hooks: Vec<Hook>,
    /// Whether TLS is among them.
    pub tls: bool,
    /// Where the library's objects have the client's random number, as in `pg_tls_library`; 0: unknown.
    pub random_at: u32,
}

/// The dynamic linker calls it when it has loaded something: it is there for debuggers.
const LOADED: &str = "_dl_debug_state";
/// Larger files are not looked into, in bytes: whoever is in the cgroup may have made them, and may say of any part that it is the table of names.
const MOST_FILE: u64 = 1 << 30;
/// By the order of `go::NEEDED`.
const GO: [u32; 3] = [abi::PG_FN_GO_READ, abi::PG_FN_GO_WRITE, abi::PG_FN_GO_SHAKE];

/// Finds what there is to hook. An error says what else of TLS was recognised; it is empty if nothing was.
pub fn of(file: &File) -> Result<Plan, String> {
    if file.metadata().map_or(0, |about| about.len()) > MOST_FILE {
        return Err(String::new());
    }
    let mut plan = Plan::default();
    let wanted: Vec<_> = names::all().chain([LOADED]).collect();
    let symbols = Symbols::read(file, &wanted).map_err(|e| format!("it cannot be read: {e}"))?;
    if let Some(found) = symbols.get(LOADED) {
        let program = Program::Loaded;
        plan.hooks.push(Hook { program, function: 0, offset: found.offset, failure: 0, caught: false });
    }
    // Of two in one file, the objects of one could be told by nothing but a thread that reads the socket.
    let named: Vec<_> = names::find(&symbols).collect();
    for library in &named {
        plan.tls = true;
        plan.hooks.extend(library.hooks(&symbols));
        plan.random_at = if named.len() == 1 { library.random_at(file, &symbols) } else { 0 };
    }
    if named.is_empty()
        && let Some(found) = boringssl::find(file)
    {
        plan.tls = true;
        plan.add_boringssl(&found);
    }
    for (found, function) in go::find(file)?.into_iter().flatten().zip(GO) {
        plan.tls = true;
        let hook = |program, offset| Hook { program, function, offset, failure: 0, caught: false };
        // Returns first: no call is seen to begin whose end is not.
        plan.hooks.extend(found.returns.iter().map(|offset| hook(Program::Return, *offset)));
        plan.hooks.push(hook(Program::Enter, found.offset));
    }
    if plan.hooks.is_empty() { Err(symbols.kind().to_owned()) } else { Ok(plan) }
}

impl Plan {
    /// The hooks by what can be attached at once. Returns first, here too.
    pub fn groups(&self) -> Vec<Vec<&Hook>> {
        let mut groups: Vec<Vec<&Hook>> = Vec::new();
        let kind = |hook: &Hook| (hook.program, hook.caught);
        for hook in &self.hooks {
            match groups.iter_mut().find(|group| group.first().is_some_and(|first| kind(first) == kind(hook))) {
                Some(group) => group.push(hook),
                None => groups.push(vec![hook]),
            }
        }
        groups.sort_by_key(|group| group.first().is_some_and(|first| first.program != Program::Return));
        groups
    }

    fn add_boringssl(&mut self, found: &boringssl::Found) {
        let place = |at: Function, program, function, caught| {
            let itself = function == abi::PG_FN_WRITE && program == Program::Enter && found.refuses_lengths;
            let failure = if itself { 0 } else { found.failure.address.wrapping_sub(at.address) };
            Hook { program, function, offset: at.offset, failure, caught }
        };
        for &(function, at) in &found.calls {
            // Returns first, here too.
            self.hooks.push(place(at, Program::Return, function, true));
            self.hooks.push(place(at, Program::Enter, function, false));
        }
        // Which function frees objects is not known. Where one was, another is only after this.
        self.hooks.push(place(found.new, Program::Forget, abi::PG_FN_NEW, true));
        self.random_at = found.random_at;
    }
}
