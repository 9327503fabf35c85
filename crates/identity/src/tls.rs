//! TLS 1.3 with SPIFFE identities on both ends, for rustls.
//!
//! A configuration holds a handle to the [`LiveIdentity`], never a certificate: the certificate to show and the bundle to
//! judge by are read at each handshake. There is no resumption in either direction, because a resumed session would skip the
//! check of a certificate that may have expired or been replaced since.

use std::io;
use std::sync::Arc;

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, CertificateError, ClientConfig, PeerIncompatible, ServerConfig, SignatureScheme};
use weft_model::SpiffeId;

use crate::certificate;
pub use crate::crypto::provider;
use crate::fault::{OwnFault, PeerError};
use crate::live::LiveIdentity;
pub use crate::peer::PeerMatch;
use crate::peer::{Role, verify};
use crate::svid::TrustBundle;
use crate::verify::{ClientVerifier, Expected, Judge, ServerVerifier};

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
    let expired_too = client_auth == ClientAuth::Required;
    let mut config = builder.with_cert_resolver(Arc::new(OwnCertificate { identity, expired_too }));
    config = without_resumption(config);
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

/// For an endpoint that anybody may read, by whatever TLS a stranger speaks: 1.3 or 1.2 (SPIFFE Federation s.5), without a client
/// certificate. It shows this process's certificate of the moment, and nothing once that has expired.
pub fn public_server_config(identity: Arc<LiveIdentity>) -> Arc<ServerConfig> {
    let config = ServerConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("aws-lc has suites and groups of both")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(OwnCertificate { identity, expired_too: false }));
    Arc::new(without_resumption(config))
}

/// Neither by ticket nor by session id.
pub fn without_resumption(mut config: ServerConfig) -> ServerConfig {
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

/// For connections to the workload `expected`, judged by this bundle and no other; nothing is shown to it. TLS 1.3 only.
pub fn client_config_by(bundle: Arc<TrustBundle>, expected: SpiffeId) -> Arc<ClientConfig> {
    client(Arc::new(ByBundle { bundle, expected: PeerMatch::Exact(expected) }), None, &[])
}

/// Who is of a bundle that is not this process's own.
#[derive(Debug)]
struct ByBundle {
    bundle: Arc<TrustBundle>,
    expected: PeerMatch,
}

impl Judge for ByBundle {
    fn judge(&self, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], now: UnixTime) -> Result<(), PeerError> {
        self.expected.check(&verify(&self.bundle, None, leaf, rest, now, Role::Server)?)
    }
}

/// For connections to `expected`. Cheap (a few hundred bytes, no parsing), so one per cluster is fine; a rotation needs no new one.
///
/// The server name given at connect time is only sent as SNI: who answers is judged by SPIFFE ID.
pub fn client_config(identity: Arc<LiveIdentity>, expected: PeerMatch, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let judge = Arc::new(Expected { identity: identity.clone(), peer: expected });
    client(judge, Some(identity), alpn)
}

/// For connections to whomever `judge` accepts, with a certificate of this process or without one.
pub(crate) fn client<J: Judge>(judge: Arc<J>, own: Option<Arc<LiveIdentity>>, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("aws-lc has TLS 1.3 suites and groups")
        .dangerous() // the verifier checks the chain and the SPIFFE ID instead of a host name
        .with_custom_certificate_verifier(Arc::new(ServerVerifier(judge)));
    let mut config = match own {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(OwnCertificate { identity, expired_too: false })),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

/// The SPIFFE ID of a peer whose chain (leaf first) the handshake has verified.
pub fn peer_spiffe_id(certificates: &[CertificateDer<'_>]) -> Result<SpiffeId, PeerError> {
    certificate::check_leaf(&certificate::parse(certificates.first().ok_or(PeerError::NoCertificate)?)?)
}

/// What [`explain`] says of a peer that answers in another protocol.
pub(crate) const NOT_TLS: &str = "the peer does not speak TLS";

/// Whose certificate a handshake failed over, where that can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Culprit {
    /// This process's own identity is of no use.
    Own(OwnFault),
    /// By the peer's clock this process's certificate has expired, or is not valid yet.
    OwnToPeer,
    /// The peer's certificate, or one that it was issued under, has expired.
    PeerExpired,
    /// The peer's certificate is not valid yet.
    PeerNotYetValid,
    /// The peer had none to show.
    PeerMissing,
    /// Somebody has banned the peer.
    PeerBanned,
    /// Something else.
    Unknown,
}

/// Whose certificate it is that a handshake failed over.
pub fn culprit(error: &io::Error) -> Culprit {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(refused)) => match refused {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Culprit::PeerExpired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Culprit::PeerNotYetValid,
            CertificateError::Other(rule) => match rule.0.downcast_ref::<PeerError>() {
                Some(PeerError::Own(fault)) => Culprit::Own(fault.clone()),
                Some(PeerError::Banned { .. }) => Culprit::PeerBanned,
                _ => Culprit::Unknown,
            },
            _ => Culprit::Unknown,
        },
        Some(rustls::Error::AlertReceived(AlertDescription::CertificateExpired)) => Culprit::OwnToPeer,
        Some(rustls::Error::AlertReceived(AlertDescription::AccessDenied)) => Culprit::PeerMissing,
        _ => Culprit::Unknown,
    }
}

/// What went wrong in a handshake, in a sentence for a log line; other I/O errors print as they are.
pub fn explain(error: &io::Error) -> String {
    use rustls::Error as Tls;
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Tls>()) {
        Some(Tls::InvalidCertificate(refused)) => refusal(refused),
        Some(Tls::NoCertificatesPresented) => PeerError::NoCertificate.to_string(),
        Some(Tls::AlertReceived(alert)) => {
            let why = match alert {
                AlertDescription::CertificateExpired => {
                    ": by its clock this process's certificate has expired or is not valid yet"
                }
                AlertDescription::AccessDenied => ": it has no certificate to show, so it has no identity yet",
                _ => "",
            };
            format!("the peer refused the handshake with alert {alert:?}{why}")
        }
        Some(Tls::PeerIncompatible(PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon)) => {
            "the peer accepts no signature scheme of this process's key".to_owned()
        }
        Some(Tls::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => NOT_TLS.to_owned(),
        Some(other) => other.to_string(),
        None => error.to_string(),
    }
}

fn refusal(refused: &CertificateError) -> String {
    match refused {
        CertificateError::Other(rule) => rule.to_string(),
        CertificateError::UnknownIssuer => {
            "the peer's certificate was not issued under this trust domain's bundle".to_owned()
        }
        CertificateError::ExpiredContext { time, not_after } => {
            let ago = time.as_secs().saturating_sub(not_after.as_secs());
            format!("the peer's certificate expired {ago} s ago")
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            let wait = not_before.as_secs().saturating_sub(time.as_secs());
            format!("the peer's certificate is valid only in {wait} s; is a clock wrong?")
        }
        other => format!("the peer's certificate was refused: {other}"),
    }
}

/// Shows this process's certificate of the moment.
///
/// Once that has expired, a client shows none. A server that takes nobody without a certificate shows it all the same: so its
/// clients learn what is wrong and whose certificate it is. Those that would accept it are refused by [`ClientVerifier`].
#[derive(Debug)]
struct OwnCertificate {
    identity: Arc<LiveIdentity>,
    expired_too: bool,
}

impl OwnCertificate {
    fn current(&self) -> Option<Arc<CertifiedKey>> {
        let state = self.identity.load();
        let shown =
            if self.expired_too { state.svid().ok_or(OwnFault::Missing) } else { state.unexpired(UnixTime::now()) };
        match shown {
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
