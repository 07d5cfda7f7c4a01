//! The tonic client: `pg-client`.

mod call;
mod channel;
mod denials;

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::proto;
use call::Call;
use channel::Link;

/// A gRPC client that makes the calls it reads
///
/// Reads JSON lists of calls on stdin, makes those of each list, prints a line of JSON per call and one of type `done`.
#[derive(Debug, Parser)]
pub struct Args {
    /// The server
    #[arg(long, required_unless_present = "write_descriptors")]
    pub target: Option<SocketAddr>,
    /// Connect over TLS, with OpenSSL as it is installed here
    #[arg(long)]
    pub tls: bool,
    /// Write the services' FileDescriptorSet to this file, and do nothing else
    #[arg(long)]
    pub write_descriptors: Option<PathBuf>,
    /// So many calls of the first call read, to see how denials look
    #[arg(long)]
    pub denials: Option<usize>,
    /// So many at once
    #[arg(long, default_value_t = 16)]
    pub concurrency: usize,
    /// With --denials: between them, so many calls of the second call read, which shall succeed
    #[arg(long, default_value_t = 0)]
    pub allowed: usize,
    /// With --denials: the status code that a denial shall have
    #[arg(long, default_value_t = 7)]
    pub code: i32,
    /// With --denials: the message that a denial shall have
    #[arg(long, default_value = "")]
    pub message: String,
}

/// Makes the calls until stdin ends.
pub async fn run(args: Args) -> Result<()> {
    if let Some(path) = &args.write_descriptors {
        return fs::write(path, proto::DESCRIPTORS).with_context(|| format!("cannot write {}", path.display()));
    }
    let link = Link::new(args.target.context("--target is missing")?, args.tls)?;
    let mut input = serde_json::Deserializer::from_reader(io::stdin()).into_iter::<Vec<Value>>();
    if let Some(count) = args.denials {
        let calls = parse(input.next().context("no calls on stdin")??)?;
        return print(&denials::run(&link, &args, count, calls).await?);
    }
    for calls in input {
        let before = link.connections();
        batch(&link, parse(calls?)?).await?;
        print(
            &json!({ "type": "done", "connections": link.connections(), "new_connections": link.connections() - before }),
        )?;
    }
    Ok(())
}

/// Runs neighbours of one group together, everything else one after the other.
async fn batch(link: &Link, calls: Vec<Call>) -> Result<()> {
    let mut calls = calls.into_iter().enumerate().peekable();
    while let Some((index, first)) = calls.next() {
        let group = first.group;
        let mut running = tokio::task::JoinSet::new();
        running.spawn(call::make(link.clone(), index, first));
        while let Some((index, next)) = calls.next_if(|(_, next)| group.is_some() && next.group == group) {
            running.spawn(call::make(link.clone(), index, next));
        }
        while let Some(result) = running.join_next().await {
            print(&result??.to_json())?;
        }
    }
    Ok(())
}

fn parse(calls: Vec<Value>) -> Result<Vec<Call>> {
    calls.into_iter().map(|call| Call::deserialize(call).context("not a call")).collect()
}

fn print(value: &Value) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}
