//! TLS for the tonic peers, with the OpenSSL that is installed: its library is what protocg hooks.

use std::io;
use std::path::Path;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use anyhow::Result;
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{AlpnError, Ssl, SslAcceptor, SslConnector, SslMethod, SslVerifyMode, select_next_proto};
use openssl::x509::{X509, X509NameBuilder};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_openssl::SslStream;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

/// HTTP/2's name for ALPN (RFC 9113, section 3.2), with its length before it.
const H2: &[u8] = b"\x02h2";

/// A connection over TLS.
pub struct Encrypted(SslStream<TcpStream>);

impl Connected for Encrypted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Encrypted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        pin!(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        pin!(&mut self.0).poll_shutdown(cx)
    }
}

/// A key and a certificate for `localhost` that it signs itself.
fn certificate() -> Result<(PKey<Private>, X509)> {
    let key = PKey::from_ec_key(EcKey::generate(&*EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?)?)?;
    let mut name = X509NameBuilder::new()?;
    name.append_entry_by_nid(Nid::COMMONNAME, "localhost")?;
    let name = name.build();
    let mut certificate = X509::builder()?;
    certificate.set_version(2)?;
    certificate.set_serial_number(&*BigNum::from_u32(1)?.to_asn1_integer()?)?;
    certificate.set_subject_name(&name)?;
    certificate.set_issuer_name(&name)?;
    certificate.set_pubkey(&key)?;
    certificate.set_not_before(&*Asn1Time::days_from_now(0)?)?;
    certificate.set_not_after(&*Asn1Time::days_from_now(1)?)?;
    certificate.sign(&key, MessageDigest::sha256())?;
    Ok((key, certificate.build()))
}

/// Accepts connections, each with a handshake of its own.
pub fn accept(listener: TcpListener) -> Result<impl Stream<Item = io::Result<Encrypted>>> {
    let (key, certificate) = certificate()?;
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls())?;
    acceptor.set_private_key(&key)?;
    acceptor.set_certificate(&certificate)?;
    acceptor.set_alpn_select_callback(|_, offered| select_next_proto(H2, offered).ok_or(AlpnError::NOACK));
    let acceptor = acceptor.build();
    let (accepted, connections) = mpsc::channel(64);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, accepted) = (acceptor.clone(), accepted.clone());
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                let Ok(mut stream) = Ssl::new(acceptor.context()).and_then(|ssl| SslStream::new(ssl, stream)) else {
                    return;
                };
                if Pin::new(&mut stream).accept().await.is_ok() {
                    let _ = accepted.send(Ok(Encrypted(stream))).await;
                }
            });
        }
    });
    Ok(ReceiverStream::new(connections))
}

/// A client's side of a connection. The certificate is not looked at.
pub async fn connect(stream: TcpStream) -> io::Result<Encrypted> {
    let mut connector = SslConnector::builder(SslMethod::tls()).map_err(io::Error::other)?;
    connector.set_verify(SslVerifyMode::NONE);
    connector.set_alpn_protos(H2).map_err(io::Error::other)?;
    let ssl = connector.build().configure().and_then(|c| c.verify_hostname(false).into_ssl("localhost"));
    let mut stream = SslStream::new(ssl.map_err(io::Error::other)?, stream).map_err(io::Error::other)?;
    Pin::new(&mut stream).connect().await.map_err(io::Error::other)?;
    Ok(Encrypted(stream))
}

/// Writes a key and its certificate to `key.pem` and `cert.pem`.
pub fn write_certificate(folder: &Path) -> Result<()> {
    let (key, certificate) = certificate()?;
    std::fs::write(folder.join("key.pem"), key.private_key_to_pem_pkcs8()?)?;
    std::fs::write(folder.join("cert.pem"), certificate.to_pem()?)?;
    Ok(())
}
