//! TLS that is judged in the processes that have it: real servers and clients over the installed OpenSSL.
//!
//! `cargo build --workspace --bins && cargo test --test tls`, as root. What this kernel cannot do is printed in lines that
//! begin with `SKIPPED`.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test")]

mod gnutls;
mod guarded;
mod judged;
mod kill;
mod libraries;
mod newer;
mod openssl;
mod prefork;
mod refused;
mod responses;
mod shapes;
mod stacks;
mod stage;
