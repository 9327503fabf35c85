//! TLS 1.3 with SPIFFE identities on both ends, for rustls.
//!
//! A configuration holds a handle to the [`LiveIdentity`], never a certificate: the certificate to show and the bundle to
//! judge by are read at each handshake. There is no resumption in either direction, because a resumed session would skip the
//! check of a certificate that may have expired or been replaced since.

use std::io;
use std::sync::{Arc, LazyLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, PeerIncompatible, ServerConfig, SignatureScheme};
use weft_model::{SpiffeId, TrustDomain};

use crate::live::LiveIdentity;
use crate::peer::{self, PeerError, Role};

/// The one crypto provider of the mesh: aws-lc, X25519MLKEM768 first.
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    &PROVIDER
}

/// Whether a listener asks its clients for a certificate. Any certificate that is shown must be valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Without one the handshake fails (alert `certificate_required`).
    Required,
    /// Asked for; a client without one is anonymous.
    Optional,
    /// Not asked for.
    None,
}

/// Who must answer a connection that this process opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMatch {
    /// This workload.
    Exact(SpiffeId),
    /// Any workload of this trust domain.
    TrustDomain(TrustDomain),
}

impl PeerMatch {
    /// Whether `id` is who was meant.
    pub fn check(&self, id: &SpiffeId) -> Result<(), PeerError> {
        let (matches, expected) = match self {
            Self::Exact(expected) => (id == expected, expected.as_str().to_owned()),
            Self::TrustDomain(domain) => (id.trust_domain() == *domain, format!("a workload of {domain}")),
        };
        if matches { Ok(()) } else { Err(PeerError::WrongPeer { actual: id.clone(), expected }) }
    }
}

/// For a listener. `alpn` is in the order of preference, empty for none.
pub fn server_config(identity: Arc<LiveIdentity>, client_auth: ClientAuth, alpn: &[&[u8]]) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("aws-lc has TLS 1.3 suites and groups");
    let builder = match client_auth {
        ClientAuth::None => builder.with_no_client_auth(),
        asked => builder.with_client_cert_verifier(Arc::new(ClientVerifier {
            identity: identity.clone(),
            mandatory: asked == ClientAuth::Required,
        })),
    };
    let mut config = builder.with_cert_resolver(Arc::new(OwnCertificate(identity)));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

/// For connections to `expected`. Cheap (a few hundred bytes, no parsing), so one per cluster is fine; a rotation needs no new one.
///
/// The server name given at connect time is only sent as SNI: who answers is judged by SPIFFE ID.
pub fn client_config(identity: Arc<LiveIdentity>, expected: PeerMatch, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("aws-lc has TLS 1.3 suites and groups")
        .dangerous() // the verifier below checks the chain and the SPIFFE ID instead of a host name
        .with_custom_certificate_verifier(Arc::new(ServerVerifier { identity: identity.clone(), expected }))
        .with_client_cert_resolver(Arc::new(OwnCertificate(identity)));
    config.resumption = Resumption::disabled();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

/// The SPIFFE ID of a peer whose chain (leaf first) the handshake has verified.
pub fn peer_spiffe_id(certificates: &[CertificateDer<'_>]) -> Result<SpiffeId, PeerError> {
    peer::check_leaf(&peer::parse(certificates.first().ok_or(PeerError::NoCertificate)?)?)
}

/// What [`explain`] says of a peer that answers in another protocol.
pub(crate) const NOT_TLS: &str = "the peer does not speak TLS";

/// What went wrong in a handshake, in a sentence for a log line; other I/O errors print as they are.
pub fn explain(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(rule))) => rule.to_string(),
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => {
            "the peer's certificate was not issued under this trust domain's bundle".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(other)) => format!("the peer's certificate was refused: {other}"),
        Some(rustls::Error::NoCertificatesPresented) => PeerError::NoCertificate.to_string(),
        Some(rustls::Error::AlertReceived(alert)) => format!("the peer refused the handshake with alert {alert:?}"),
        Some(rustls::Error::PeerIncompatible(PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon)) => {
            "the peer accepts no signature scheme of this process's key".to_owned()
        }
        Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => NOT_TLS.to_owned(),
        Some(other) => other.to_string(),
        None => error.to_string(),
    }
}

/// Shows this process's certificate of the moment, and none once it has expired.
#[derive(Debug)]
struct OwnCertificate(Arc<LiveIdentity>);

impl OwnCertificate {
    fn current(&self) -> Option<Arc<CertifiedKey>> {
        match self.0.load().usable(UnixTime::now()) {
            Ok(svid) => Some(svid.certified_key().clone()),
            Err(why) => {
                tracing::debug!(%why, "TLS handshake without an own certificate"); // the renewal says it once, loudly
                None
            }
        }
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current()
    }
}

impl ResolvesClientCert for OwnCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.current()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Judges those who connect to this process: any workload of its trust domain; what it may do is decided later.
#[derive(Debug)]
struct ClientVerifier {
    identity: Arc<LiveIdentity>,
    mandatory: bool,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[] // every client has one certificate; hints would only cost bytes and tell strangers about the bundle
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        peer::verify(&self.identity.load(), leaf, rest, now, Role::Client)?;
        Ok(ClientCertVerified::assertion())
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
        verify_tls13_signature(message, leaf, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Judges whom this process connects to.
#[derive(Debug)]
struct ServerVerifier {
    identity: Arc<LiveIdentity>,
    expected: PeerMatch,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let state = self.identity.load();
        state.usable(now)?; // better said here than as an alert from a peer that got no certificate
        self.expected.check(&peer::verify(&state, leaf, rest, now, Role::Server)?)?;
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
        verify_tls13_signature(message, leaf, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
