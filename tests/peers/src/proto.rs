//! The peers' protobuf types and services, and their descriptors.

use std::sync::OnceLock;

use prost_reflect::DescriptorPool;

/// `proto/search.proto`.
#[allow(missing_docs, clippy::all)]
pub mod search {
    tonic::include_proto!("search");
}

/// `proto/login.proto`.
#[allow(missing_docs, clippy::all)]
pub mod login {
    tonic::include_proto!("login");
}

/// `proto/echo.proto`.
#[allow(missing_docs, clippy::all)]
pub mod echo {
    tonic::include_proto!("echo");
}

/// `proto/interop.proto`.
#[allow(missing_docs, clippy::all)]
pub mod testing {
    tonic::include_proto!("grpc.testing");
}

/// All of them as an encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/peers.binpb"));

/// All of them, to look names up in.
pub fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(DESCRIPTORS).expect("the build wrote a descriptor set"))
}
