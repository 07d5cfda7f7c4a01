//! Ring 1: what independent HTTP/2 clients send, at random, to three judges: the engine on the host, the same in the kernel, and the slow
//! reference. Their lists of verdicts are equal.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod corpus;
mod h2;
mod nghttp2;
mod python;
mod three;

use three::{Tally, Three};

/// Recorded bytes: what the server said before all, and what the client wrote.
pub struct Recording {
    server: Vec<u8>,
    client: Vec<u8>,
}

/// Judges recordings under every policy, three times each.
fn judge(name: &str, recordings: &[Recording]) {
    let mut three = Three::new();
    let mut tally = Tally::default();
    for (i, recording) in recordings.iter().enumerate() {
        three.judge(recording, i as u64, &mut tally);
    }
    println!("{name}: {tally}");
    assert!(tally.verdicts > 0 && tally.calls > 0, "a dull run");
}
