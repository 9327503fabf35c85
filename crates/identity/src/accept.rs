//! Accepting TLS connections for a gRPC server: handshakes run side by side, each within a bound, and a bad one costs the others nothing.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use weft_xds::ConnectPeer;

use crate::bans::{CutOff, Leaf};
use crate::certificate::{parse, validity};
use crate::live::LiveIdentity;
use crate::{machine, tls};

/// A handshake that takes longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes under way at once; more connections wait in the listener's backlog.
const HANDSHAKES: usize = 1024;

/// An accepted connection and who its peer proved to be.
#[derive(Debug)]
pub struct TlsIo {
    stream: TlsStream<TcpStream>,
    peer: ConnectPeer,
    /// That the peer is banned; of nobody who has shown no certificate.
    cut_off: Option<CutOff>,
}

impl TlsIo {
    /// The peer's SPIFFE ID; `None` without a client certificate.
    pub fn peer(&self) -> &ConnectPeer {
        &self.peer
    }
}

/// Accepts connections of `listener` until the stream is dropped. Failed handshakes are logged and not yielded.
pub fn serve_tls(
    listener: TcpListener,
    config: Arc<ServerConfig>,
    identity: Arc<LiveIdentity>,
) -> impl Stream<Item = io::Result<TlsIo>> + Send {
    let (accepted, connections) = mpsc::channel(64);
    tokio::spawn(async move {
        tokio::select! {
            () = accepted.closed() => {}
            () = accept_all(&listener, TlsAcceptor::from(config), &identity, &accepted) => {}
        }
    });
    ReceiverStream::new(connections)
}

async fn accept_all(
    listener: &TcpListener,
    acceptor: TlsAcceptor,
    identity: &Arc<LiveIdentity>,
    accepted: &mpsc::Sender<io::Result<TlsIo>>,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
        let (stream, from) = match listener.accept().await {
            Ok(connection) => connection,
            Err(error) => {
                // Out of file descriptors, or the peer is gone already: neither ends the listener.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (acceptor, accepted, identity) = (acceptor.clone(), accepted.clone(), identity.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(acceptor, stream, &identity)).await {
                Ok(Ok(connection)) => drop(accepted.send(Ok(connection)).await),
                Ok(Err(error)) => refuse(from, &tls::explain(&error)),
                Err(_) => refuse(from, "the handshake took longer than 10 s"),
            }
            drop(permit);
        });
    }
}

fn refuse(from: SocketAddr, why: &str) {
    tracing::info!(%from, why, "TLS connection refused");
}

async fn handshake(acceptor: TlsAcceptor, stream: TcpStream, identity: &LiveIdentity) -> io::Result<TlsIo> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let connection = stream.get_ref().1;
    let binding = Some(machine::binding(connection).map_err(io::Error::other)?);
    let Some([leaf, ..]) = connection.peer_certificates() else {
        return Ok(TlsIo { peer: ConnectPeer { binding, ..ConnectPeer::default() }, stream, cut_off: None });
    };
    let cut_off = Some(identity.watch(leaf).map_err(io::Error::other)?);
    let Leaf { id, serial, machine } = Leaf::of(leaf).map_err(io::Error::other)?;
    let expires = Some(validity(&parse(leaf).map_err(io::Error::other)?).1);
    let peer = ConnectPeer { id: Some(id), expires, serial, machine, binding };
    Ok(TlsIo { stream, peer, cut_off })
}

impl TlsIo {
    /// Fails once the peer is banned; else wakes whoever reads when it is.
    fn is_cut_off(&mut self, context: &mut Context<'_>) -> bool {
        self.cut_off.as_mut().is_some_and(|cut_off| Pin::new(cut_off).poll(context).is_ready())
    }
}

impl Connected for TlsIo {
    type ConnectInfo = ConnectPeer;

    fn connect_info(&self) -> ConnectPeer {
        self.peer.clone()
    }
}

impl AsyncRead for TlsIo {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        if read.is_pending() && self.is_cut_off(context) {
            self.cut_off = None; // it has ended, and is not asked again
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::PermissionDenied, "the peer is banned")));
        }
        read
    }
}

impl AsyncWrite for TlsIo {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
