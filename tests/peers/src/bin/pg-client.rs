//! A gRPC client that makes the calls it reads.

use anyhow::Result;
use clap::Parser;
use protocg_peers::client::{Args, run};

#[tokio::main]
async fn main() -> Result<()> {
    run(Args::parse()).await
}
