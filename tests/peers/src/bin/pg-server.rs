//! A gRPC server that says what its handlers see.

use anyhow::Result;
use clap::Parser;
use protocg_peers::server::{Args, run};

#[tokio::main]
async fn main() -> Result<()> {
    run(Args::parse()).await
}
