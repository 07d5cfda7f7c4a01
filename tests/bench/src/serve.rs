//! The smallest tonic server that can be measured: one thread, no logs; with a check of its own, or without.

use std::net::SocketAddr;
use std::pin::Pin;

use anyhow::Result;
use clap::{Args, ValueEnum};
use protocg_peers::proto::echo::echo_server::{Echo, EchoServer};
use protocg_peers::proto::echo::{EchoReply, EchoRequest};
use tokio_stream::{Stream, StreamExt};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// What the application itself does against bad calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Check {
    /// Nothing.
    None,
    /// A tonic interceptor looks at the metadata.
    Interceptor,
    /// The handler looks at the field.
    Handler,
}

/// `pg-bench serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where; says `listening ADDR:PORT` once it does
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long, value_enum, default_value = "none")]
    check: Check,
}

/// Windows as wide as those that the proxies are given.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Serves until it is killed.
#[tokio::main(flavor = "current_thread")]
pub async fn run(args: ServeArgs) -> Result<()> {
    let listener = tokio::net::TcpListener::bind(args.listen).await?;
    println!("listening {}", listener.local_addr()?);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let service = EchoServer::new(Tiny { check: args.check == Check::Handler }).max_decoding_message_size(usize::MAX);
    let mut server =
        Server::builder().initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
    let router = match args.check {
        Check::Interceptor => server.add_service(InterceptedService::new(service, intercept)),
        Check::None | Check::Handler => server.add_service(service),
    };
    router.serve_with_incoming(incoming).await?;
    Ok(())
}

fn denied() -> Status {
    Status::permission_denied("text contains A")
}

#[allow(clippy::result_large_err, reason = "tonic's interface")]
fn intercept(request: Request<()>) -> Result<Request<()>, Status> {
    match request.metadata().get("x-deny") {
        Some(value) if value == "1" => Err(denied()),
        _ => Ok(request),
    }
}

struct Tiny {
    check: bool,
}

impl Tiny {
    #[allow(clippy::result_large_err, reason = "tonic's interface")]
    fn answer(check: bool, request: &EchoRequest) -> Result<EchoReply, Status> {
        if check && request.text.contains('A') {
            return Err(denied());
        }
        Ok(EchoReply { received: 1, received_bytes: request.payload.len() as u64, ..EchoReply::default() })
    }
}

type Replies = Pin<Box<dyn Stream<Item = Result<EchoReply, Status>> + Send>>;

#[tonic::async_trait]
impl Echo for Tiny {
    type ServerStreamStream = Replies;
    type BidiStream = Replies;

    async fn unary(&self, request: Request<EchoRequest>) -> Result<Response<EchoReply>, Status> {
        Self::answer(self.check, request.get_ref()).map(Response::new)
    }

    async fn bidi(&self, request: Request<Streaming<EchoRequest>>) -> Result<Response<Replies>, Status> {
        let check = self.check;
        let replies = request.into_inner().map(move |message| Self::answer(check, &message?));
        Ok(Response::new(Box::pin(replies)))
    }

    async fn slow(&self, _: Request<EchoRequest>) -> Result<Response<EchoReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn client_stream(&self, _: Request<Streaming<EchoRequest>>) -> Result<Response<EchoReply>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn server_stream(&self, _: Request<EchoRequest>) -> Result<Response<Replies>, Status> {
        Err(Status::unimplemented(""))
    }
}
