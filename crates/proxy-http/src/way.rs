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

/// A stream of bytes both ways. An end of one direction leaves the other as it is.
pub trait Way: AsyncRead + AsyncWrite + Unpin {
    /// Whether it broke. Told even while nobody reads; whoever was told must not read on. Wakes as reading and writing do.
    fn is_broken(&mut self, cx: &mut Context<'_>) -> bool;

    /// Its end is to be a break, that the peer takes for no orderly one: over TCP a reset, over TLS one without a `close_notify`,
    /// over HTTP/2 a reset of the stream. What has not left yet may be lost.
    fn reset(&mut self);
}

/// The client's way, once it has been told that it has it.
pub type Switched = oneshot::Receiver<Box<dyn Way>>;

impl Way for TcpStream {
    fn is_broken(&mut self, _: &mut Context<'_>) -> bool {
        matches!(self.take_error(), Ok(Some(_)))
    }

    fn reset(&mut self) {
        let _ = SockRef::from(&*self).set_linger(Some(Duration::ZERO));
    }
}

macro_rules! tls_way {
    ($end:ident) => {
        impl Way for $end::TlsStream<BufReader<TcpStream>> {
            fn is_broken(&mut self, cx: &mut Context<'_>) -> bool {
                self.get_mut().0.get_mut().is_broken(cx)
            }

            fn reset(&mut self) {
                self.get_mut().0.get_mut().reset();
            }
        }
    };
}
tls_way!(server);
tls_way!(client);

/// A stream that breaks when its peer is banned: `end` is ready then. It costs nothing while there is something to read.
pub struct Severed<S> {
    stream: S,
    /// `None` once it has broken.
    end: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl<S> Severed<S> {
    /// Breaks `stream` when `end` is ready.
    pub fn new(stream: S, end: impl Future<Output = ()> + 'static) -> Self {
        Self { stream, end: Some(Box::pin(end)) }
    }

    /// The stream itself.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    fn has_ended(&mut self, cx: &mut Context<'_>) -> bool {
        let over = self.end.as_mut().is_none_or(|end| end.as_mut().poll(cx).is_ready());
        if over {
            self.end = None;
        }
        over
    }

    /// What is not ready is an error once it is over.
    fn unless_ended<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_pending() && self.has_ended(cx) {
            let error = io::Error::new(io::ErrorKind::PermissionDenied, "the peer was banned");
            return Poll::Ready(Err(error));
        }
        done
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Severed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.unless_ended(cx, read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Severed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.unless_ended(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.unless_ended(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.unless_ended(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.unless_ended(cx, shut)
    }
}

impl<S: Way> Way for Severed<S> {
    fn is_broken(&mut self, cx: &mut Context<'_>) -> bool {
        self.stream.is_broken(cx) || self.has_ended(cx)
    }

    fn reset(&mut self) {
        self.stream.reset();
    }
}

/// A connection to an endpoint.
pub enum Stream {
    /// To the app, or to an endpoint outside of the mesh.
    Clear(TcpStream),
    /// To another sidecar, whose SPIFFE ID is the expected one.
    Tls(Box<Severed<client::TlsStream<BufReader<TcpStream>>>>),
}

impl Stream {
    /// Our end's address.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Clear(tcp) => tcp.local_addr().ok(),
            Self::Tls(tls) => tls.stream.get_ref().0.get_ref().local_addr().ok(),
        }
    }
}

impl Way for Stream {
    fn is_broken(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Clear(tcp) => tcp.is_broken(cx),
            Self::Tls(tls) => tls.is_broken(cx),
        }
    }

    fn reset(&mut self) {
        match self {
            Self::Clear(tcp) => tcp.reset(),
            Self::Tls(tls) => tls.reset(),
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
