//! One client connection: who is at the other end, what it speaks, and its requests until it ends or the proxy drains.

use std::io::{Cursor, ErrorKind};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aws_lc_rs::digest;
use bytes::BytesMut;
use http::HeaderValue;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use weft_identity::tls::peer_spiffe_id;
use weft_model::SpiffeId;
use weft_telemetry::Failure;

use crate::config::{Config, DownstreamProtocol, Listener, ListenerKind, PeerMatch};
use crate::downstream::{h1, h2};
use crate::identity;
use crate::tcp;
use crate::upstream::TLS_READ_AHEAD;
use crate::worker::Worker;

const PREFACE_START: &[u8] = b"PRI";
/// From the first byte of a client to the third.
const FIRST_BOUND: Duration = Duration::from_secs(30);
const FIRST_READ: usize = 8 * 1024;

/// What is known of a client connection.
pub(crate) struct Connection {
    /// As it was when the connection began.
    first: Arc<Listener>,
    pub(crate) own_id: Arc<str>,
    pub(crate) peer: Option<SpiffeId>,
    pub(crate) peer_id: Option<Arc<str>>,
    pub(crate) is_tls: bool,
    pub(crate) local_address: Option<SocketAddr>,
    pub(crate) remote_address: Option<SocketAddr>,
    pub(crate) server_name: Option<Arc<str>>,
    /// The `x-forwarded-client-cert` that this peer's requests get.
    pub(crate) xfcc: Option<HeaderValue>,
}

impl Connection {
    fn new(worker: &Worker, listener: Arc<Listener>, tcp: &TcpStream) -> Self {
        let own_id = worker.shared.identity.id().map_or_else(|| "unknown".into(), |id| Arc::from(id.as_str()));
        Self {
            first: listener,
            own_id,
            peer: None,
            peer_id: None,
            is_tls: false,
            local_address: tcp.local_addr().ok(),
            remote_address: tcp.peer_addr().ok(),
            server_name: None,
            xfcc: None,
        }
    }

    /// The listener as it is configured now; a connection outlives changes, and the removal, of its listener.
    pub(crate) fn listener(&self, config: &Config) -> Arc<Listener> {
        let same = |listener: &&Arc<Listener>| {
            listener.name == self.first.name && matches!(listener.kind, ListenerKind::Http(_))
        };
        config.listeners.iter().find(same).unwrap_or(&self.first).clone()
    }

    fn authenticated(mut self, certificates: &[CertificateDer<'_>], server_name: Option<&str>) -> Result<Self, String> {
        let id = peer_spiffe_id(certificates).map_err(|error| error.to_string())?;
        self.xfcc = xfcc(&self.own_id, &id, &certificates[0]);
        self.peer_id = Some(id.as_str().into());
        self.peer = Some(id);
        self.is_tls = true;
        self.server_name = server_name.map(Into::into);
        Ok(self)
    }
}

/// `x-forwarded-client-cert` as Envoy writes it: our URI, the SHA-256 of the peer's certificate, the peer's URI.
fn xfcc(own: &str, peer: &SpiffeId, certificate: &CertificateDer<'_>) -> Option<HeaderValue> {
    let hash = digest::digest(&digest::SHA256, certificate);
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::from_str(&format!("By={own};Hash={hex};URI={peer}")).ok()
}

/// Serves a connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, listener: Arc<Listener>, tls: Option<Arc<ServerConfig>>, tcp: TcpStream) {
    let _ = tcp.set_nodelay(true);
    let connection = Connection::new(&worker, listener.clone(), &tcp);
    let remote = connection.remote_address;
    let Some(config) = tls else {
        return match &listener.kind {
            ListenerKind::Http(http) => {
                let Some((first, is_h2)) = first_bytes(&tcp, http.protocol).await else { return };
                if is_h2 {
                    let (read, write) = tcp.into_split();
                    let io = tokio::io::join(Cursor::new(first.freeze()).chain(read), write);
                    h2::serve(worker, Rc::new(connection), http, io).await;
                } else {
                    h1::serve(worker, Rc::new(connection), Box::new(tcp), first).await;
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
        (Some(tls), Some(peer)) => match &tls.peer {
            PeerMatch::Exact(id) => id == peer,
            PeerMatch::TrustDomain(domain) => *domain == peer.trust_domain(),
        },
        _ => false,
    };
    if !expected {
        let why = "the peer's SPIFFE ID is not one that this listener takes";
        return refuse(&worker, remote, Failure::TlsFailed, why);
    }
    match &listener.kind {
        ListenerKind::Http(http) if is_h2 => h2::serve(worker, Rc::new(connection), http, stream).await,
        ListenerKind::Http(_) => h1::serve(worker, Rc::new(connection), Box::new(stream), BytesMut::new()).await,
        ListenerKind::Tcp(_) => tcp::serve(worker, Rc::new(connection), listener, stream).await,
    }
}

fn refuse(worker: &Worker, remote: Option<SocketAddr>, failure: Failure, why: &str) {
    worker.shared.refused_handshakes.fetch_add(1, Ordering::Relaxed);
    let remote = remote.map(|address| address.to_string()).unwrap_or_default();
    let facts = failure.facts();
    tracing::info!(remote, layer = facts.layer.as_str(), cause = facts.cause, "connection refused: {why}");
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
