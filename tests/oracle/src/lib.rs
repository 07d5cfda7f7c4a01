//! The slow, obvious reference: what a client's bytes mean under a policy, by the words of the RFCs and of the policy language.
//!
//! Nothing here is shared with the engine, its tables or its compiler. Each layer is read in whole units (a frame, a header block, a
//! message), texts are kept as texts, and rules are evaluated one after the other. Tests and fuzzers ask it and the engine the same.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what fails here fails a test")]

pub mod cel;
pub mod condition;
pub mod conversation;
pub mod headers;
pub mod hpack;
pub mod message;
pub mod policies;
pub mod policy;
pub mod wire;

/// An opened connection, as far as a server takes it.
pub use conversation::{Cause, Conversation, Outcome, Verdict, What};
