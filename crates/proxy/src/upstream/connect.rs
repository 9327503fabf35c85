//! One new connection to an endpoint: TCP, and TLS where the cluster says so, within the cluster's connect timeout.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use weft_telemetry::Failure;

use super::{AttemptError, Sent};
use crate::config::Cluster;
use crate::identity;

/// What one read of a TLS connection takes from the socket, at most. rustls itself reads 4 KiB at a time, a quarter of a record.
pub(crate) const TLS_READ_AHEAD: usize = 32 * 1024;

/// A connection to an endpoint.
pub(crate) enum Stream {
    /// To the app, or to an endpoint outside of the mesh.
    Clear(TcpStream),
    /// To another sidecar, whose SPIFFE ID is the expected one.
    Tls(Box<TlsStream<BufReader<TcpStream>>>),
}

impl Stream {
    /// Our end's address.
    pub(crate) fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Clear(tcp) => tcp.local_addr().ok(),
            Self::Tls(tls) => tls.get_ref().0.get_ref().local_addr().ok(),
        }
    }
}

/// Connects, or says which layer failed.
pub(crate) async fn connect(
    cluster: &Cluster,
    address: SocketAddr,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<Stream, AttemptError> {
    let failed = |failure, reason: String| AttemptError::new(failure, Sent::NoConnection, reason);
    let unreachable = if cluster.tls.is_some() { Failure::ConnectFailed } else { Failure::AppUnreachable };
    let attempt = async {
        let tcp =
            TcpStream::connect(address).await.map_err(|error| failed(unreachable, format!("{address}: {error}")))?;
        let _ = tcp.set_nodelay(true);
        let (Some(config), Some(tls)) = (tls, &cluster.tls) else { return Ok(Stream::Clear(tcp)) };
        let name = server_name(tls.sni.as_deref(), address);
        let stream = TlsConnector::from(config.clone())
            .connect(name, BufReader::with_capacity(TLS_READ_AHEAD, tcp))
            .await
            .map_err(|error| {
                let (peer, why) = (&tls.expected_id, weft_identity::tls::explain(&error));
                failed(identity::handshake(&error), format!("{address} ({peer}): {why}"))
            })?;
        Ok(Stream::Tls(Box::new(stream)))
    };
    match tokio::time::timeout(cluster.connect_timeout, attempt).await {
        Ok(result) => result,
        Err(_) => Err(failed(
            Failure::ConnectTimeout,
            format!("{address}: no connection within {:?}", cluster.connect_timeout),
        )),
    }
}

/// The SNI is a hint for the other side; who answers is judged by SPIFFE ID.
fn server_name(sni: Option<&str>, address: SocketAddr) -> ServerName<'static> {
    sni.and_then(|name| ServerName::try_from(name.to_owned()).ok())
        .unwrap_or(ServerName::IpAddress(address.ip().into()))
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Clear(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Clear(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Clear(tcp) => tcp.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Clear(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
