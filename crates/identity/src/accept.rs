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

use crate::certificate::{machine_of, parse, serial_of, validity};
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
}

impl TlsIo {
    /// The peer's SPIFFE ID; `None` without a client certificate.
    pub fn peer(&self) -> &ConnectPeer {
        &self.peer
    }
}

/// Accepts connections of `listener` until the stream is dropped. Failed handshakes are logged and not yielded.
pub fn serve_tls(listener: TcpListener, config: Arc<ServerConfig>) -> impl Stream<Item = io::Result<TlsIo>> + Send {
    let (accepted, connections) = mpsc::channel(64);
    tokio::spawn(async move {
        tokio::select! {
            () = accepted.closed() => {}
            () = accept_all(&listener, TlsAcceptor::from(config), &accepted) => {}
        }
    });
    ReceiverStream::new(connections)
}

async fn accept_all(listener: &TcpListener, acceptor: TlsAcceptor, accepted: &mpsc::Sender<io::Result<TlsIo>>) {
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
        let (acceptor, accepted) = (acceptor.clone(), accepted.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake(acceptor, stream)).await {
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

async fn handshake(acceptor: TlsAcceptor, stream: TcpStream) -> io::Result<TlsIo> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let connection = stream.get_ref().1;
    let binding = Some(machine::binding(connection).map_err(io::Error::other)?);
    let peer = match connection.peer_certificates() {
        Some(chain @ [leaf, ..]) => ConnectPeer {
            id: Some(tls::peer_spiffe_id(chain).map_err(io::Error::other)?),
            expires: Some(validity(&parse(leaf).map_err(io::Error::other)?).1),
            serial: serial_of(leaf).map_err(io::Error::other)?,
            machine: machine_of(leaf).map_err(io::Error::other)?,
            binding,
        },
        _ => ConnectPeer { binding, ..ConnectPeer::default() },
    };
    Ok(TlsIo { stream, peer })
}

impl Connected for TlsIo {
    type ConnectInfo = ConnectPeer;

    fn connect_info(&self) -> ConnectPeer {
        self.peer.clone()
    }
}

impl AsyncRead for TlsIo {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
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
