//! Streams of bytes, as the HTTP at both ends uses them.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::{client, server};

/// What one read of a TLS connection takes from the socket, at most. rustls itself reads 4 KiB at a time, a quarter of a record.
pub const TLS_READ_AHEAD: usize = 32 * 1024;

/// A stream of bytes both ways.
pub trait Way: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Way for T {}

/// The client's way, once it has been told that it has it.
pub type Switched = oneshot::Receiver<Box<dyn Way>>;

/// A client's connection.
pub trait ClientIo: Way {
    /// What broke the connection, if something did: told even while nobody reads.
    fn broken(&self) -> Option<io::Error>;

    /// The end of the connection is to be a break, that no client takes for an orderly one.
    fn reset(&self);
}

impl ClientIo for TcpStream {
    fn broken(&self) -> Option<io::Error> {
        self.take_error().ok().flatten()
    }

    fn reset(&self) {
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }
}

impl ClientIo for server::TlsStream<BufReader<TcpStream>> {
    fn broken(&self) -> Option<io::Error> {
        self.get_ref().0.get_ref().broken()
    }

    fn reset(&self) {
        self.get_ref().0.get_ref().reset();
    }
}

/// A connection to an endpoint.
pub enum Stream {
    /// To the app, or to an endpoint outside of the mesh.
    Clear(TcpStream),
    /// To another sidecar, whose SPIFFE ID is the expected one.
    Tls(Box<client::TlsStream<BufReader<TcpStream>>>),
}

impl Stream {
    /// Our end's address.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Clear(tcp) => tcp.local_addr().ok(),
            Self::Tls(tls) => tls.get_ref().0.get_ref().local_addr().ok(),
        }
    }
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
