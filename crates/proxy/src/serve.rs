//! One client connection: who is at the other end, what it speaks, and its requests until it ends or the proxy drains.

use std::future::Future;
use std::io::{Cursor, ErrorKind};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use http::Response;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use weft_identity::PeerError;
use weft_proxy_config::{DownstreamProtocol, HttpListener, Listener, ListenerKind, PeerMatch};
use weft_proxy_http::server::{ClientRequest, Service, h1, h2};
use weft_proxy_http::{Severed, TLS_READ_AHEAD};
use weft_telemetry::Failure;

use crate::connection::Connection;
use crate::identity;
use crate::request::{handle, refuse_unreadable};
use crate::response::ResponseBody;
use crate::tcp;
use crate::worker::Worker;

const PREFACE_START: &[u8] = b"PRI";
/// From the first byte of a client to the third.
const FIRST_BOUND: Duration = Duration::from_secs(30);
const FIRST_READ: usize = 8 * 1024;

/// The phases of a request, for the connection that carries it.
#[derive(Clone)]
struct Phases {
    worker: Rc<Worker>,
    connection: Rc<Connection>,
}

impl Service for Phases {
    type Body = ResponseBody;

    fn answer(&self, request: ClientRequest) -> impl Future<Output = Response<ResponseBody>> + 'static {
        handle(self.worker.clone(), self.connection.clone(), request)
    }

    fn refuse(&self, failure: Failure, why: String) -> Response<ResponseBody> {
        refuse_unreadable(&self.worker, &self.connection, failure, why)
    }

    fn drained(&self) -> impl Future<Output = ()> {
        self.worker.shared.drained()
    }

    fn is_draining(&self) -> bool {
        self.worker.shared.is_draining()
    }
}

fn offer(http: &HttpListener) -> h2::Offer {
    h2::Offer { max_streams: http.max_concurrent_streams, websocket: http.websocket }
}

/// Serves a connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, listener: Arc<Listener>, tls: Option<Arc<ServerConfig>>, tcp: TcpStream) {
    let _ = tcp.set_nodelay(true);
    let connection = Connection::new(&worker, listener.clone(), &tcp);
    let remote = connection.remote_address;
    let is_tls = match &listener.permissive {
        None => true,
        Some(permissive) => match begins_tls(&tcp, permissive.first_byte).await {
            Ok(is_tls) => is_tls,
            Err(why) => return refuse(&worker, remote, Failure::TlsFailed, why),
        },
    };
    let Some(config) = tls.filter(|_| is_tls) else {
        return match &listener.kind {
            ListenerKind::Http(http) => {
                let Some((first, is_h2)) = first_bytes(&tcp, http.protocol).await else { return };
                let _serving = worker.serving();
                let phases = Phases { worker, connection: Rc::new(connection) };
                if is_h2 {
                    let (read, write) = tcp.into_split();
                    let io = tokio::io::join(Cursor::new(first.freeze()).chain(read), write);
                    h2::serve(&phases, offer(http), io).await;
                } else {
                    h1::serve(&phases, Box::new(tcp), first).await;
                }
            }
            ListenerKind::Tcp(_) => tcp::serve(worker, Rc::new(connection), listener, tcp).await,
        };
    };
    let tcp = BufReader::with_capacity(TLS_READ_AHEAD, tcp);
    let handshake = TlsAcceptor::from(config).accept(tcp);
    let accepted = match listener.handshake_timeout {
        Some(bound) => tokio::time::timeout(bound, handshake).await,
        None => Ok(handshake.await),
    };
    let stream = match accepted {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            // What the peer says of it is that it was given a certificate that has expired.
            let (failure, why) = match worker.shared.identity.fault() {
                Some(fault) => (identity::own(&fault), fault.to_string()),
                None => (identity::handshake(&error), weft_identity::tls::explain(&error)),
            };
            return refuse(&worker, remote, failure, &why);
        }
        Err(_) => return refuse(&worker, remote, Failure::TlsFailed, "the TLS handshake took too long"),
    };
    let session = stream.get_ref().1;
    let is_h2 = session.alpn_protocol() == Some(b"h2");
    let certificates = session.peer_certificates().unwrap_or_default().to_vec();
    let connection = match connection.authenticated(&certificates, session.server_name()) {
        Ok(connection) => connection,
        Err(why) => return refuse(&worker, remote, Failure::TlsFailed, &why),
    };
    let expected = match (&listener.tls, &connection.peer) {
        (Some(tls), Some(peer)) => tls.peers.iter().any(|one| match one {
            PeerMatch::Exact(id) => id == peer,
            PeerMatch::TrustDomain(domain) => *domain == peer.trust_domain(),
        }),
        _ => false,
    };
    if !expected {
        let why = "the peer's SPIFFE ID is not one that this listener takes";
        return refuse(&worker, remote, Failure::TlsFailed, why);
    }
    let shown = certificates.first().ok_or(PeerError::NoCertificate);
    let stream = match shown.and_then(|leaf| worker.shared.identity.watch(leaf)) {
        Ok(cut_off) => Severed::new(stream, cut_off),
        Err(error) => return refuse(&worker, remote, Failure::PeerIdentityBanned, &error.to_string()),
    };
    let connection = Rc::new(connection);
    let ListenerKind::Http(http) = &listener.kind else {
        return tcp::serve(worker, connection, listener, stream).await;
    };
    let _serving = worker.serving();
    let phases = Phases { worker, connection };
    if is_h2 {
        h2::serve(&phases, offer(http), stream).await;
    } else {
        h1::serve(&phases, Box::new(stream), BytesMut::new()).await;
    }
}

fn refuse(worker: &Worker, remote: Option<SocketAddr>, failure: Failure, why: &str) {
    worker.shared.refused_handshakes.fetch_add(1, Ordering::Relaxed);
    let remote = remote.map(|address| address.to_string()).unwrap_or_default();
    let facts = failure.facts();
    tracing::info!(remote, layer = facts.layer.as_str(), cause = facts.cause, "connection refused: {why}");
}

/// The first byte of every TLS connection: the type of a record of the handshake (RFC 8446 s.5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// Whether a client that may speak either begins a TLS handshake. Only looks: the byte is read again by whoever serves it.
async fn begins_tls(tcp: &TcpStream, bound: Option<Duration>) -> Result<bool, &'static str> {
    let mut first = [0];
    let peek = tcp.peek(&mut first);
    let peeked = match bound {
        None => peek.await,
        Some(bound) => tokio::time::timeout(bound, peek).await.map_err(|_| "the client has sent nothing in time")?,
    };
    match peeked {
        Ok(1) => Ok(first[0] == HANDSHAKE_RECORD),
        Ok(_) | Err(_) => Err("the client left before it sent anything"),
    }
}

/// The first bytes of a clear-text client, and whether they begin the HTTP/2 preface (RFC 9113 s.3.4). HTTP clients speak first, so
/// nothing stalls, and three bytes are enough: no HTTP/1.1 method begins with them. `None` if it left, or stopped in the middle.
async fn first_bytes(tcp: &TcpStream, protocol: DownstreamProtocol) -> Option<(BytesMut, bool)> {
    let mut first = BytesMut::new();
    match protocol {
        DownstreamProtocol::Http1 => return Some((first, false)),
        DownstreamProtocol::Http2 => return Some((first, true)),
        DownstreamProtocol::Auto => {}
    }
    // No memory is held for a client that says nothing.
    tcp.readable().await.ok()?;
    let told = async {
        while first.len() < 3 && PREFACE_START.starts_with(&first) {
            first.reserve(FIRST_READ);
            match tcp.try_read_buf(&mut first) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => tcp.readable().await.ok()?,
                Err(_) => return None,
            }
        }
        Some(())
    };
    tokio::time::timeout(FIRST_BOUND, told).await.ok()??;
    let is_h2 = first.starts_with(PREFACE_START);
    Some((first, is_h2))
}
