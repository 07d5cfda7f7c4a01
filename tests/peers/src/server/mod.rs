//! The tonic server: `pg-server`.

pub mod control;
pub mod interop;
pub mod log;
pub mod services;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::proto::echo::echo_server::EchoServer;
use crate::proto::login::login_service_server::LoginServiceServer;
use crate::proto::search::search_service_server::SearchServiceServer;
use crate::proto::testing::test_service_server::TestServiceServer;
use services::Services;

/// A gRPC server that says what its handlers see
#[derive(Debug, Parser)]
pub struct Args {
    /// Where to serve; port 0 lets the kernel choose. Says `listening ADDR:PORT` once it does
    #[arg(long, required = true)]
    pub listen: Vec<SocketAddr>,
    /// Where to answer questions, a line each (`counts`, `reset`, `mark ID`): ADDR:PORT or unix:PATH
    #[arg(long)]
    pub control: Option<String>,
    /// Where to write the counters when the server ends
    #[arg(long)]
    pub count_file: Option<PathBuf>,
    /// Serve over TLS, with OpenSSL as it is installed here and a certificate that is made for the purpose
    #[arg(long)]
    pub tls: bool,
    /// SETTINGS_MAX_CONCURRENT_STREAMS
    #[arg(long)]
    pub max_streams: Option<u32>,
}

/// How long the server waits for running calls after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);

/// Serves until SIGTERM or SIGINT.
pub async fn run(args: Args) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    if let Some(place) = &args.control {
        control::start(place)?;
    }
    let (stop, stopped) = watch::channel(false);
    let mut servers = tokio::task::JoinSet::new();
    let mut ready = Vec::new();
    for address in &args.listen {
        let listener = bind(*address).with_context(|| format!("cannot listen on {address}"))?;
        ready.push(listener.local_addr()?);
        let mut stopped = stopped.clone();
        // tonic allocates what a message says that it is long, before it has come: 4 GiB end a server on a small machine
        let max = 64 << 20;
        let echo = EchoServer::new(Services).max_decoding_message_size(max).max_encoding_message_size(max);
        let search = SearchServiceServer::new(Services).max_decoding_message_size(max);
        let login = LoginServiceServer::new(Services).max_decoding_message_size(max);
        let testing = TestServiceServer::new(Services).max_decoding_message_size(max).max_encoding_message_size(max);
        let router = Server::builder()
            .max_concurrent_streams(args.max_streams)
            .layer(interop::EchoMetadata)
            .add_service(testing)
            .add_service(echo.accept_compressed(Gzip))
            .add_service(search.accept_compressed(Gzip))
            .add_service(login.accept_compressed(Gzip));
        // The sender is gone: that is a stop too.
        let stopped = async move { drop(stopped.wait_for(|stop| *stop).await) };
        if args.tls {
            let incoming = crate::tls::accept(listener)?;
            servers.spawn(async move { router.serve_with_incoming_shutdown(incoming, stopped).await });
        } else {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            servers.spawn(async move { router.serve_with_incoming_shutdown(incoming, stopped).await });
        }
    }
    for address in ready {
        log::line(format_args!("listening {address}"));
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        Some(ended) = servers.join_next() => ended??,
    }
    stop.send_replace(true);
    // Whoever still talks after the grace is cut.
    let _ = tokio::time::timeout(GRACE, async { while servers.join_next().await.is_some() {} }).await;
    if let Some(path) = args.count_file {
        std::fs::write(&path, log::counts().to_string()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn bind(address: SocketAddr) -> Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket.listen(1024)?)
}
