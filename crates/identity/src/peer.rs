//! The rules by which a peer's certificate is accepted: SPIFFE X.509-SVID s.5, and nothing softer.
//!
//! Pure: certificates and the time come in, a SPIFFE ID or the broken rule goes out.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use rustls::{CertificateError, OtherError};
use weft_model::{NameError, SpiffeId, TrustDomain};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::live::{self, IdentityState, Svid, TrustBundle, VerifiedIssuer};
use crate::tls;

/// The rule that a peer's certificate breaks. `Debug` prints the same sentence as `Display`, because TLS errors are printed so.
#[derive(Clone, thiserror::Error)]
pub enum PeerError {
    /// This side has nothing to verify with.
    #[error("this process has no identity yet, so it can verify nobody; it gets one by attesting with a join token")]
    NoIdentity,
    /// This side's own certificate has run out.
    #[error(
        "this process's own certificate expired {0} s ago and was not renewed; it makes no connections until it is"
    )]
    OwnCertificateExpired(u64),
    /// The peer sent no certificate.
    #[error("the peer sent no certificate")]
    NoCertificate,
    /// No certificate of the peer is the root that a join token names.
    #[error("the server is not of the mesh that this join token is for (no certificate has the token's pin)")]
    NotPinned,
    /// Not a certificate, or one with an extension that cannot be read.
    #[error("the peer's certificate is malformed: {0}")]
    Malformed(String),
    /// X.509-SVID s.2.
    #[error("the peer's certificate has no URI SAN, so it names no SPIFFE ID (X.509-SVID s.2)")]
    NoUriSan,
    /// X.509-SVID s.2.
    #[error("the peer's certificate has {0} URI SANs; exactly one is allowed (X.509-SVID s.2)")]
    SeveralUriSans(usize),
    /// SPIFFE-ID s.2 or X.509-SVID s.3.1.
    #[error("the peer's certificate has a URI SAN that is no workload's: {0} (X.509-SVID s.3.1)")]
    NotASpiffeId(#[from] NameError),
    /// X.509-SVID s.5.2.
    #[error(
        "the peer's certificate of {0} is a CA certificate; a signing certificate authenticates nobody (X.509-SVID s.5.2)"
    )]
    IsCa(SpiffeId),
    /// X.509-SVID s.4.3.
    #[error("the peer's certificate of {0} has the wrong key usage: {1} (X.509-SVID s.4.3)")]
    KeyUsage(SpiffeId, &'static str),
    /// X.509-SVID s.4.4.
    #[error(
        "the peer's certificate of {0} lacks serverAuth or clientAuth in its extended key usage (X.509-SVID s.4.4)"
    )]
    ExtendedKeyUsage(SpiffeId),
    /// The peer is someone else than the one that was dialled.
    #[error("the peer is {actual}, expected was {expected}")]
    WrongPeer {
        /// Who answered.
        actual: SpiffeId,
        /// Who should have.
        expected: String,
    },
    /// There is no bundle for the peer's trust domain.
    #[error("the peer {0} is of another trust domain than {1}, and there is no bundle for it")]
    ForeignTrustDomain(SpiffeId, TrustDomain),
    /// RFC 5280 s.6.1: no path to the bundle.
    #[error("the certificate of {0} was not issued under the bundle of trust domain {1}")]
    UnknownIssuer(SpiffeId, TrustDomain),
    /// RFC 5280 s.6.1.3.
    #[error("the certificate of {id} expired at {} s after the epoch, {} s ago", .not_after.as_secs(), .now.as_secs().saturating_sub(.not_after.as_secs()))]
    Expired {
        /// Whose.
        id: SpiffeId,
        /// The time of the check.
        now: UnixTime,
        /// The end of its life.
        not_after: UnixTime,
    },
    /// RFC 5280 s.6.1.3.
    #[error("the certificate of {id} is valid only in {} s; is a clock wrong?", .not_before.as_secs().saturating_sub(.now.as_secs()))]
    NotYetValid {
        /// Whose.
        id: SpiffeId,
        /// The time of the check.
        now: UnixTime,
        /// The start of its life.
        not_before: UnixTime,
    },
    /// Another rule of RFC 5280 s.6.1.
    #[error("the certificate chain of {0} is invalid: {1}")]
    Chain(SpiffeId, webpki::Error),
    /// X.509-SVID s.3.2 and s.4.3: an issuing certificate of the chain.
    #[error("an issuing certificate in the chain of {0} is no SPIFFE signing certificate: {1} (X.509-SVID s.3.2)")]
    Issuer(SpiffeId, String),
}

impl fmt::Debug for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<PeerError> for rustls::Error {
    /// Keeps the TLS alert meaningful where TLS has one (`certificate_expired`, `unknown_ca`); the sentence travels otherwise.
    fn from(error: PeerError) -> Self {
        rustls::Error::InvalidCertificate(match error {
            PeerError::Expired { now, not_after, .. } => CertificateError::ExpiredContext { time: now, not_after },
            PeerError::NotYetValid { now, not_before, .. } => {
                CertificateError::NotValidYetContext { time: now, not_before }
            }
            PeerError::UnknownIssuer(..) => CertificateError::UnknownIssuer,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        })
    }
}

/// Parses one DER certificate, the whole input.
pub(crate) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, PeerError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(PeerError::Malformed("bytes follow it".into())),
        Err(error) => Err(PeerError::Malformed(error.to_string())),
    }
}

/// The SPIFFE ID of a leaf and the rules of X.509-SVID s.5.2; says nothing about who issued it or when it is valid.
pub(crate) fn check_leaf(leaf: &X509Certificate<'_>) -> Result<SpiffeId, PeerError> {
    let malformed = |error: x509_parser::error::X509Error| PeerError::Malformed(error.to_string());
    let uris = uri_sans(leaf)?;
    let id: SpiffeId = match uris.as_slice() {
        [] => return Err(PeerError::NoUriSan),
        [uri] => uri.parse()?,
        several => return Err(PeerError::SeveralUriSans(several.len())),
    };
    if leaf.basic_constraints().map_err(malformed)?.is_some_and(|constraints| constraints.value.ca) {
        return Err(PeerError::IsCa(id));
    }
    let Some(usage) = leaf.key_usage().map_err(malformed)? else {
        return Err(PeerError::KeyUsage(id, "the extension is missing"));
    };
    if usage.value.key_cert_sign() || usage.value.crl_sign() {
        return Err(PeerError::KeyUsage(id, "a leaf must not have keyCertSign or cRLSign"));
    }
    if !usage.value.digital_signature() {
        return Err(PeerError::KeyUsage(id, "a leaf must have digitalSignature"));
    }
    if let Some(extended) = leaf.extended_key_usage().map_err(malformed)?
        && !(extended.value.server_auth && extended.value.client_auth)
    {
        return Err(PeerError::ExtendedKeyUsage(id));
    }
    Ok(id)
}

fn uri_sans<'a>(certificate: &'a X509Certificate<'_>) -> Result<Vec<&'a str>, PeerError> {
    let names = certificate.subject_alternative_name().map_err(|error| PeerError::Malformed(error.to_string()))?;
    let mut uris = Vec::with_capacity(1);
    for name in names.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::Invalid(..) => {
                return Err(PeerError::Malformed("a subject alternative name is unreadable".into()));
            }
            _ => {}
        }
    }
    Ok(uris)
}

/// The rules of X.509-SVID s.3.2 for a certificate that signs others in `trust_domain`.
pub(crate) fn check_signing(certificate: &X509Certificate<'_>, trust_domain: &TrustDomain) -> Result<(), String> {
    if !matches!(certificate.basic_constraints(), Ok(Some(constraints)) if constraints.value.ca) {
        return Err("its basic constraints do not say CA:TRUE".into());
    }
    if !matches!(certificate.key_usage(), Ok(Some(usage)) if usage.value.key_cert_sign()) {
        return Err("its key usage lacks keyCertSign".into());
    }
    match uri_sans(certificate).map_err(|error| error.to_string())?.as_slice() {
        [] => Ok(()),
        [uri] if *uri == trust_domain.id() => Ok(()),
        [uri] => Err(format!("its URI SAN is {uri}, not {}", trust_domain.id())),
        several => Err(format!("it has {} URI SANs", several.len())),
    }
}

/// The trust domain in a signing certificate's URI SAN.
pub(crate) fn signing_domain(certificate: &X509Certificate<'_>) -> Result<TrustDomain, PeerError> {
    match uri_sans(certificate)?.as_slice() {
        [uri] => Ok(uri.strip_prefix("spiffe://").unwrap_or(uri).parse()?),
        several => {
            Err(PeerError::Malformed(format!("its root has {} URI SANs, not the trust domain alone", several.len())))
        }
    }
}

/// What a certificate is presented for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The peer accepted the connection.
    Server,
    /// The peer opened it.
    Client,
}

/// All of X.509-SVID s.5 for one presented chain, leaf first, against this process's bundle.
pub(crate) fn verify(
    state: &IdentityState,
    leaf: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
    now: UnixTime,
    role: Role,
) -> Result<SpiffeId, PeerError> {
    let bundle = state.bundle().ok_or(PeerError::NoIdentity)?;
    let id = check_leaf(&parse(leaf)?)?;
    let domain = bundle.trust_domain();
    if id.trust_domain() != *domain {
        return Err(PeerError::ForeignTrustDomain(id, domain.clone()));
    }
    let end_entity = webpki::EndEntityCert::try_from(leaf).map_err(|error| PeerError::Malformed(error.to_string()))?;
    let usage = match role {
        Role::Server => webpki::KeyUsage::server_auth(),
        Role::Client => webpki::KeyUsage::client_auth(),
    };
    let algorithms = tls::provider().signature_verification_algorithms.all;
    let check = |anchors: &[TrustAnchor<'_>], rest| {
        let path = end_entity.verify_for_usage(algorithms, anchors, rest, now, usage, None, None)?;
        Ok::<Vec<CertificateDer<'static>>, webpki::Error>(
            path.intermediate_certificates().map(|issuer| issuer.der().into_owned()).collect(),
        )
    };
    // The short way: the same issuer as ours, verified before. Whatever fails on it is judged, and explained, the long way.
    if let Some(issuer) = state.issuer()
        && rest.first() == Some(&issuer.certificate)
        && UNIX_EPOCH + Duration::from_secs(now.as_secs()) <= issuer.not_after
        && check(std::slice::from_ref(&issuer.anchor), &[]).is_ok()
    {
        return Ok(id);
    }
    let path = check(bundle.anchors(), rest);
    let path = path.map_err(|error| match error {
        webpki::Error::CertExpired { time, not_after } => PeerError::Expired { id: id.clone(), now: time, not_after },
        webpki::Error::CertNotValidYet { time, not_before } => {
            PeerError::NotYetValid { id: id.clone(), now: time, not_before }
        }
        webpki::Error::UnknownIssuer => PeerError::UnknownIssuer(id.clone(), domain.clone()),
        other => PeerError::Chain(id.clone(), other),
    })?;
    for issuer in path {
        check_signing(&parse(&issuer)?, domain).map_err(|why| PeerError::Issuer(id.clone(), why))?;
    }
    Ok(id)
}

/// For the fuzz target `certificate`: who a client is that shows this chain, leaf first.
#[doc(hidden)]
pub fn verify_client(
    state: &IdentityState,
    chain: &[CertificateDer<'_>],
    now: UnixTime,
) -> Result<SpiffeId, PeerError> {
    let [leaf, rest @ ..] = chain else { return Err(PeerError::NoCertificate) };
    verify(state, leaf, rest, now, Role::Client)
}

/// The issuing CA of this process's own chain, if that chain holds up against the bundle.
pub(crate) fn verified_issuer(svid: &Svid, bundle: &Arc<TrustBundle>, now: UnixTime) -> Option<VerifiedIssuer> {
    let [leaf, rest @ ..] = svid.chain() else { return None };
    let issuer = rest.first()?;
    if bundle.roots().contains(issuer) {
        return None; // issued by the root itself: the path is as short as it gets
    }
    // Alone with its leaf, so that the path that is verified leads over this issuer and no other.
    let state = IdentityState::trusting((**bundle).clone());
    verify(&state, leaf, std::slice::from_ref(issuer), now, Role::Server).ok()?;
    let anchor = webpki::anchor_from_trusted_cert(issuer).ok()?.to_owned();
    let (_, not_after) = live::validity(&parse(issuer).ok()?);
    Some(VerifiedIssuer { certificate: issuer.clone(), anchor, not_after })
}

#[cfg(test)]
mod tests;
