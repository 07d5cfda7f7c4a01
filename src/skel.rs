//! The libbpf-rs skeleton of `bpf/protocg.bpf.c`, made by libbpf-cargo.

#![allow(missing_docs, unsafe_code, clippy::all, clippy::undocumented_unsafe_blocks, reason = "generated")]

include!(concat!(env!("OUT_DIR"), "/protocg.skel.rs"));
