//! The libbpf-rs skeletons of the BPF objects, made by libbpf-cargo.

#![allow(
    missing_docs,
    unsafe_code,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    clippy::panic,
    reason = "generated"
)]

mod protocg {
    include!(concat!(env!("OUT_DIR"), "/protocg.skel.rs"));
}

mod probe {
    include!(concat!(env!("OUT_DIR"), "/probe.skel.rs"));
}

mod guard {
    include!(concat!(env!("OUT_DIR"), "/guard.skel.rs"));
}

mod tls {
    include!(concat!(env!("OUT_DIR"), "/tls.skel.rs"));
}

pub use guard::GuardSkelBuilder;
pub use probe::ProbeSkelBuilder;
pub use protocg::ProtocgSkelBuilder;
pub use tls::{TlsSkel, TlsSkelBuilder};
