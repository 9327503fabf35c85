//! Connecting to the control plane: by this workload's identity, or, before it has one, by the pin in its join token.

use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};
use weft_model::{SpiffeId, TrustDomain};

use crate::certificate::{check_leaf, parse, signing_domain};
use crate::fault::{OwnFault, PeerError};
use crate::join_token::JoinToken;
use crate::live::LiveIdentity;
use crate::machine::{Binding, binding};
use crate::peer::{PeerMatch, Role, verify};
use crate::proof::Roots;
use crate::svid::TrustBundle;
use crate::tls;
use crate::verify::Judge;

/// Bounds TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// With [`PING_TIMEOUT`], a connection whose other end vanished is noticed within 15 s.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// The control plane could not be reached, or is not the one that it should be.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to {server}: {why}")]
pub struct ConnectError {
    /// As it was given.
    pub server: String,
    /// The innermost cause.
    pub why: String,
}

/// Each control plane of a list, `host:port,host:port`, in the order in which they are tried.
pub fn each(servers: &str) -> impl Iterator<Item = &str> {
    servers.split(',').map(str::trim)
}

/// One HTTP/2 connection to the first control plane of `servers` (`host:port`, or several with commas between them) that takes one, mutually
/// authenticated with this process's identity of the moment. Dropping all clones of the channel closes it; it reconnects by itself, to the
/// same one, when it is used after a loss.
pub async fn connect(servers: &str, identity: &Arc<LiveIdentity>) -> Result<Channel, ConnectError> {
    let failed = |why| ConnectError { server: servers.to_owned(), why };
    let domain = identity.load().bundle().map(|bundle| bundle.trust_domain().clone());
    let domain = domain.ok_or_else(|| failed(OwnFault::Missing.to_string()))?;
    let config = tls::client_config(identity.clone(), PeerMatch::Exact(SpiffeId::of_control_plane(&domain)), &[b"h2"]);
    let mut errors = Vec::new();
    for server in each(servers) {
        match connect_with(server, config.clone()).await {
            Ok((channel, _)) => return Ok(channel),
            Err(error) => errors.push(error),
        }
    }
    match <[ConnectError; 1]>::try_from(errors) {
        Ok([error]) => Err(error),
        Err(errors) => {
            let why = errors.iter().map(|error| format!("{}: {}", error.server, error.why));
            Err(failed(why.collect::<Vec<_>>().join("; ")))
        }
    }
}

/// The same without a certificate of its own, for whoever knows the mesh but has nothing valid to show: the server is judged by this
/// bundle, which may be an old one.
pub(crate) async fn connect_by_bundle(
    server: &str,
    bundle: Arc<TrustBundle>,
) -> Result<(Channel, Binding), ConnectError> {
    connect_with(server, tls::client(Arc::new(Known(bundle)), None, &[b"h2"])).await
}

/// The same without a certificate of its own: the server must show a chain to the root that the token pins.
/// The bundle is that root, proved by the handshake.
pub(crate) async fn connect_pinned(
    server: &str,
    token: &JoinToken,
) -> Result<(Channel, Binding, TrustBundle), ConnectError> {
    let (pin, domain) = (token.pin(), token.trust_domain().cloned());
    let pinned = Arc::new(Pinned { pin, domain, proved: Mutex::new(None) });
    let config = tls::client(pinned.clone(), None, &[b"h2"]);
    let (channel, binding) = connect_with(server, config).await?;
    let proved = pinned.proved.lock().unwrap_or_else(PoisonError::into_inner).take();
    let bundle =
        proved.ok_or_else(|| ConnectError { server: server.to_owned(), why: "no handshake was made".into() })?;
    Ok((channel, binding, bundle))
}

/// The same without a certificate of its own, for whoever has nothing of the mesh but its roots: the server must be the control plane of a
/// trust domain that one of these is of. The bundle is theirs, proved by the handshake.
pub(crate) async fn connect_rooted(
    server: &str,
    roots: Roots,
) -> Result<(Channel, Binding, TrustBundle), ConnectError> {
    let rooted = Arc::new(Rooted { roots, proved: Mutex::new(None) });
    let (channel, binding) = connect_with(server, tls::client(rooted.clone(), None, &[b"h2"])).await?;
    let proved = rooted.proved.lock().unwrap_or_else(PoisonError::into_inner).take();
    let bundle =
        proved.ok_or_else(|| ConnectError { server: server.to_owned(), why: "no handshake was made".into() })?;
    Ok((channel, binding, bundle))
}

/// The channel, and what binds signatures to its first connection.
async fn connect_with(server: &str, config: Arc<ClientConfig>) -> Result<(Channel, Binding), ConnectError> {
    let refuse = |why: String| ConnectError { server: server.to_owned(), why };
    let authority = server.trim_start_matches("https://").trim_end_matches('/').to_owned();
    let endpoint = Endpoint::from_shared(format!("http://{authority}")) // TLS is made by the connector below
        .map_err(|_| refuse("write it as host:port".into()))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true);
    let connector = TlsConnector::from(config);
    let bound = Arc::new(OnceLock::new());
    let first = bound.clone();
    let dial = tower::service_fn(move |uri: Uri| dial(connector.clone(), uri, first.clone()));
    let channel = endpoint.connect_with_connector(dial).await.map_err(|error| {
        let why = root_cause(&error);
        let hint = if why == tls::NOT_TLS { "; is it the control plane's port for sidecars, 15010?" } else { "" };
        refuse(why + hint)
    })?;
    let binding = bound.get().copied().ok_or_else(|| refuse("no handshake was made".into()))?;
    Ok((channel, binding))
}

async fn dial(
    connector: TlsConnector,
    uri: Uri,
    bound: Arc<OnceLock<Binding>>,
) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
    let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "write the server as host:port"));
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = connector.connect(name, stream).await?;
    let _ = bound.set(binding(stream.get_ref().1).map_err(io::Error::other)?); // that of a later connection is another
    Ok(TokioIo::new(stream))
}

/// The innermost cause, as a sentence. gRPC and HTTP libraries wrap it in several layers that say nothing.
pub(crate) fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    loop {
        if let Some(io) = innermost.downcast_ref::<io::Error>()
            && io.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
        {
            return tls::explain(io);
        }
        match innermost.source() {
            Some(source) => innermost = source,
            None => return innermost.to_string(),
        }
    }
}

/// Accepts the control plane of the bundle's trust domain.
#[derive(Debug)]
struct Known(Arc<TrustBundle>);

impl Judge for Known {
    fn judge(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], now: UnixTime) -> Result<(), PeerError> {
        let expected = PeerMatch::Exact(SpiffeId::of_control_plane(self.0.trust_domain()));
        expected.check(&verify(&self.0, None, leaf, rest, now, Role::Server)?)
    }
}

/// Accepts the control plane of the given trust domain, or else of whichever the pinned root is of, and remembers that root.
#[derive(Debug)]
struct Pinned {
    pin: [u8; 32],
    domain: Option<TrustDomain>,
    proved: Mutex<Option<TrustBundle>>,
}

impl Judge for Pinned {
    fn judge(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], now: UnixTime) -> Result<(), PeerError> {
        let root = rest.iter().find(|certificate| is_pinned(certificate, &self.pin)).ok_or(PeerError::NotPinned)?;
        let domain = match &self.domain {
            Some(domain) => domain.clone(),
            None => signing_domain(&parse(root)?)?,
        };
        let bundle = bundle_of(domain, root)?;
        let expected = PeerMatch::Exact(SpiffeId::of_control_plane(bundle.trust_domain()));
        expected.check(&verify(&bundle, None, leaf, rest, now, Role::Server)?)?;
        *self.proved.lock().unwrap_or_else(PoisonError::into_inner) = Some(bundle);
        Ok(())
    }
}

/// Accepts the control plane of whichever trust domain the roots on this machine are of, and remembers their bundle.
#[derive(Debug)]
struct Rooted {
    roots: Roots,
    proved: Mutex<Option<TrustBundle>>,
}

impl Judge for Rooted {
    fn judge(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], now: UnixTime) -> Result<(), PeerError> {
        let bundle = self.roots.bundle(&check_leaf(&parse(leaf)?)?.trust_domain())?;
        let expected = PeerMatch::Exact(SpiffeId::of_control_plane(bundle.trust_domain()));
        expected.check(&verify(&bundle, None, leaf, rest, now, Role::Server)?)?;
        *self.proved.lock().unwrap_or_else(PoisonError::into_inner) = Some(bundle);
        Ok(())
    }
}

fn bundle_of(domain: TrustDomain, root: &CertificateDer<'_>) -> Result<TrustBundle, PeerError> {
    let root = CertificateDer::from(root.to_vec());
    TrustBundle::new(domain, vec![root]).map_err(|error| PeerError::Malformed(error.to_string()))
}

/// Whether a certificate's SubjectPublicKeyInfo has this SHA-256.
pub(crate) fn is_pinned(certificate: &CertificateDer<'_>, pin: &[u8; 32]) -> bool {
    parse(certificate).is_ok_and(|parsed| Sha256::digest(parsed.public_key().raw).as_slice() == pin)
}
