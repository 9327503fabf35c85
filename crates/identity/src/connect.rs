//! Connecting to the control plane: by this workload's identity, or, before it has one, by the pin in its join token.

use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use weft_model::TrustDomain;

use crate::authority::own_id;
use crate::live::{IdentityState, LiveIdentity, TrustBundle};
use crate::peer::{self, PeerError, Role};
use crate::tls::{self, PeerMatch};

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

/// One HTTP/2 connection to the control plane at `server` (`host:port`), mutually authenticated with this process's identity of the
/// moment. Dropping all clones of the channel closes it; it reconnects by itself when it is used after a loss.
pub async fn connect(server: &str, identity: &Arc<LiveIdentity>) -> Result<Channel, ConnectError> {
    let domain = identity.load().bundle().map(|bundle| bundle.trust_domain().clone());
    let domain =
        domain.ok_or_else(|| ConnectError { server: server.to_owned(), why: PeerError::NoIdentity.to_string() })?;
    let config = tls::client_config(identity.clone(), PeerMatch::Exact(own_id(&domain)), &[b"h2"]);
    connect_with(server, config).await
}

/// The same without a certificate of its own: the server must show a chain to the root that has this pin.
/// The bundle is that root, proved by the handshake.
pub(crate) async fn connect_pinned(server: &str, pin: [u8; 32]) -> Result<(Channel, TrustBundle), ConnectError> {
    let verifier = Arc::new(PinnedVerifier { pin, proved: Mutex::new(None) });
    let mut config = ClientConfig::builder_with_provider(tls::provider().clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("aws-lc has TLS 1.3 suites and groups")
        .dangerous() // the verifier checks the chain to the pinned root and the control plane's SPIFFE ID
        .with_custom_certificate_verifier(verifier.clone())
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let channel = connect_with(server, Arc::new(config)).await?;
    let proved = verifier.proved.lock().unwrap_or_else(PoisonError::into_inner).take();
    let bundle =
        proved.ok_or_else(|| ConnectError { server: server.to_owned(), why: "no handshake was made".into() })?;
    Ok((channel, bundle))
}

async fn connect_with(server: &str, config: Arc<ClientConfig>) -> Result<Channel, ConnectError> {
    let refuse = |why: String| ConnectError { server: server.to_owned(), why };
    let authority = server.trim_start_matches("https://").trim_end_matches('/').to_owned();
    let endpoint = Endpoint::from_shared(format!("http://{authority}")) // TLS is made by the connector below
        .map_err(|_| refuse("write it as host:port".into()))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true);
    let connector = TlsConnector::from(config);
    let channel =
        endpoint.connect_with_connector(tower::service_fn(move |uri: Uri| dial(connector.clone(), uri))).await;
    channel.map_err(|error| {
        let why = root_cause(&error);
        let hint = if why == tls::NOT_TLS { "; is it the control plane's port for sidecars, 15010?" } else { "" };
        refuse(why + hint)
    })
}

async fn dial(connector: TlsConnector, uri: Uri) -> io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
    let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "write the server as host:port"));
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    Ok(TokioIo::new(connector.connect(name, stream).await?))
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

/// Accepts the control plane of whichever trust domain the pinned root is of, and remembers that root.
#[derive(Debug)]
struct PinnedVerifier {
    pin: [u8; 32],
    proved: Mutex<Option<TrustBundle>>,
}

impl PinnedVerifier {
    fn verify(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], now: UnixTime) -> Result<(), PeerError> {
        let root = rest.iter().find(|certificate| is_pinned(certificate, &self.pin)).ok_or(PeerError::NotPinned)?;
        let domain = peer::signing_domain(&peer::parse(root)?)?;
        let bundle = bundle_of(domain, root)?;
        let expected = PeerMatch::Exact(own_id(bundle.trust_domain()));
        let state = IdentityState::trusting(bundle.clone());
        expected.check(&peer::verify(&state, leaf, rest, now, Role::Server)?)?;
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
    peer::parse(certificate).is_ok_and(|parsed| Sha256::digest(parsed.public_key().raw).as_slice() == pin)
}

impl ServerCertVerifier for PinnedVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(leaf, rest, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signature, &tls::provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::provider().signature_verification_algorithms.supported_schemes()
    }
}
