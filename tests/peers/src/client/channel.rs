//! The connection under the calls, counted; and messages as the bytes that they are.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use bytes::{Buf, BufMut};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// One channel, and how often it has connected.
#[derive(Debug, Clone)]
pub struct Link {
    pub channel: Channel,
    connections: Arc<AtomicU64>,
}

impl Link {
    /// A channel that connects with its first call.
    pub fn new(target: SocketAddr, tls: bool) -> Result<Self> {
        let connections = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&connections);
        let channel = Endpoint::from_shared(format!("http://{target}"))?.connect_with_connector_lazy(service_fn(
            move |_: Uri| {
                let counter = Arc::clone(&counter);
                async move {
                    let stream = TcpStream::connect(target).await?;
                    stream.set_nodelay(true)?;
                    counter.fetch_add(1, Ordering::Relaxed);
                    let stream: Box<dyn Stream> =
                        if tls { Box::new(crate::tls::connect(stream).await?) } else { Box::new(stream) };
                    io::Result::Ok(TokioIo::new(stream))
                }
            },
        ));
        Ok(Self { channel, connections })
    }

    /// Connections made so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

/// What a channel runs over.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Messages as bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(input.copy_to_bytes(input.remaining()).to_vec()))
    }
}
