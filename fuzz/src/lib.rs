//! What the fuzzers make of their inputs, and what must hold of it. `scripts/fuzz.sh` links this library to libFuzzer and to an engine that
//! is built with sanitizers; tests replay the corpus through it with the ordinary engine, and in the kernel.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a fuzzer says what it found")]

pub mod case;
pub mod check;
pub mod corpus;
pub mod dice;
pub mod filter;
pub mod grammar;
pub mod mend;

use std::cell::OnceCell;

use case::Target;
use check::{Libraries, Pair};
use protocg_oracle::policies::GENERAL;

/// Policies and libraries, made once.
pub struct Fuzzer {
    /// The policies that cases choose from.
    pub pairs: Vec<Pair>,
    libraries: Libraries,
}

impl Default for Fuzzer {
    fn default() -> Self {
        let pairs = check::pairs();
        let libraries = Libraries::new(&pairs);
        Self { pairs, libraries }
    }
}

impl Fuzzer {
    /// Panics if something does not hold of this input.
    pub fn run(&self, target: Target, input: &[u8]) {
        if target == Target::Mend {
            return mend::check(&self.pairs, input);
        }
        let case = case::case(target, input, self.pairs.len());
        match target {
            Target::Protobuf if case.policy >= GENERAL => {
                self.libraries.message(&self.pairs[case.policy], case.policy, input.get(3..).unwrap_or_default());
            }
            Target::Hpack => Libraries::blocks(&[input.get(3..).unwrap_or_default()]),
            _ => {}
        }
        check::check(&self.pairs, &case);
    }
}

thread_local! {
    static FUZZER: OnceCell<(Target, Fuzzer)> = const { OnceCell::new() };
}

/// libFuzzer's entry. The environment says which target.
///
/// # Safety
/// `data` points to `size` bytes, or `size` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pg_fuzz_one(data: *const u8, size: usize) -> i32 {
    // SAFETY: as the caller says.
    let input = if size == 0 { &[] } else { unsafe { std::slice::from_raw_parts(data, size) } };
    FUZZER.with(|fuzzer| {
        let (target, fuzzer) = fuzzer.get_or_init(|| {
            let name = std::env::var("PROTOCG_FUZZ").unwrap_or_else(|_| "raw".to_owned());
            (Target::named(&name).unwrap_or_else(|| panic!("no target is named {name}")), Fuzzer::default())
        });
        fuzzer.run(*target, input);
    });
    0
}
