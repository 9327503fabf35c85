//! One client connection: who is at the other end, what it speaks, and its requests until it ends or the proxy drains.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aws_lc_rs::digest;
use http::HeaderValue;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use weft_identity::tls::peer_spiffe_id;
use weft_model::SpiffeId;
use weft_telemetry::Failure;

use crate::config::{Config, DownstreamProtocol, HttpListener, Listener, ListenerKind, PeerMatch};
use crate::exchange::Exchange;
use crate::request::handle;
use crate::tcp;
use crate::upstream::TLS_READ_AHEAD;
use crate::worker::Worker;

/// For the head of a request, once its first byte came.
const HEAD_BOUND: Duration = Duration::from_secs(30);
/// Heads larger than this are answered with 431.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const PREFACE_START: &[u8] = b"PRI * HTTP/2";

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
                let is_h2 = speaks_h2(&tcp, http.protocol).await;
                serve_http(worker, Rc::new(connection), http, tcp, is_h2).await;
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
        Ok(Err(error)) => return refuse(&worker, remote, &weft_identity::tls::explain(&error)),
        Err(_) => return refuse(&worker, remote, "the TLS handshake took too long"),
    };
    let session = stream.get_ref().1;
    let is_h2 = session.alpn_protocol() == Some(b"h2");
    let certificates = session.peer_certificates().unwrap_or_default().to_vec();
    let connection = match connection.authenticated(&certificates, session.server_name()) {
        Ok(connection) => connection,
        Err(why) => return refuse(&worker, remote, &why),
    };
    let expected = match (&listener.tls, &connection.peer) {
        (Some(tls), Some(peer)) => match &tls.peer {
            PeerMatch::Exact(id) => id == peer,
            PeerMatch::TrustDomain(domain) => *domain == peer.trust_domain(),
        },
        _ => false,
    };
    if !expected {
        return refuse(&worker, remote, "the peer's SPIFFE ID is not one that this listener takes");
    }
    match &listener.kind {
        ListenerKind::Http(http) => serve_http(worker, Rc::new(connection), http, stream, is_h2).await,
        ListenerKind::Tcp(_) => tcp::serve(worker, Rc::new(connection), listener, stream).await,
    }
}

fn refuse(worker: &Worker, remote: Option<SocketAddr>, why: &str) {
    worker.shared.refused_handshakes.fetch_add(1, Ordering::Relaxed);
    let remote = remote.map(|address| address.to_string()).unwrap_or_default();
    tracing::info!(remote, layer = "identity", cause = why, "connection refused");
}

/// Whether a clear-text client begins with the HTTP/2 preface (RFC 9113 s.3.4). HTTP clients speak first, so the first
/// bytes tell and nothing stalls: three bytes are enough, no HTTP/1.1 method begins with them.
async fn speaks_h2(tcp: &TcpStream, protocol: DownstreamProtocol) -> bool {
    match protocol {
        DownstreamProtocol::Http1 => return false,
        DownstreamProtocol::Http2 => return true,
        DownstreamProtocol::Auto => {}
    }
    let mut first = [0; PREFACE_START.len()];
    let mut look = tokio::time::interval(Duration::from_millis(5));
    loop {
        match tcp.peek(&mut first).await {
            Ok(seen) if seen >= 3 || !PREFACE_START.starts_with(&first[..seen]) || seen == 0 => {
                return seen > 0 && PREFACE_START.starts_with(&first[..seen]);
            }
            Ok(_) => drop(look.tick().await),
            Err(_) => return false,
        }
    }
}

async fn serve_http<S>(worker: Rc<Worker>, connection: Rc<Connection>, http: &HttpListener, stream: S, is_h2: bool)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = {
        let (worker, connection) = (worker.clone(), connection.clone());
        service_fn(move |request| handle(worker.clone(), connection.clone(), request))
    };
    let io = TokioIo::new(stream);
    let ended = if is_h2 {
        let mut builder = http2::Builder::new(OnThisWorker);
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .max_concurrent_streams(http.max_concurrent_streams.unwrap_or(1024))
            .max_header_list_size(HEAD_BYTES_MAX as u32)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20));
        if http.websocket {
            builder.enable_connect_protocol();
        }
        let served = pin!(builder.serve_connection(io, service));
        until_drained(&worker, served, |served| served.graceful_shutdown()).await
    } else {
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_BOUND)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(io, service)
            .with_upgrades();
        until_drained(&worker, pin!(served), |served| served.graceful_shutdown()).await
    };
    if let Err(error) = ended {
        if error.is_parse() {
            let failure = if error.is_parse_too_large() { Failure::HeadTooLarge } else { Failure::BadRequest };
            Exchange::unreadable(&worker, &connection, failure, error.to_string());
        }
        tracing::debug!(%error, "client connection ended");
    }
}

/// Drives a connection; when the proxy drains, tells it once to finish what is under way and take no more.
async fn until_drained<C: Future>(worker: &Worker, mut served: Pin<&mut C>, finish: impl Fn(Pin<&mut C>)) -> C::Output {
    let mut drain = pin!(worker.shared.drain.notified());
    drain.as_mut().enable();
    let mut told = false;
    poll_fn(|cx| {
        if !told && (worker.shared.draining.load(Ordering::Acquire) || drain.as_mut().poll(cx).is_ready()) {
            told = true;
            finish(served.as_mut());
        }
        served.as_mut().poll(cx)
    })
    .await
}

/// Runs hyper's per-stream futures on the worker that has the connection.
#[derive(Clone, Copy)]
struct OnThisWorker;

impl<F: Future + 'static> Executor<F> for OnThisWorker {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}
