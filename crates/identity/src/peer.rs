//! Whom a peer proves to be: SPIFFE X.509-SVID s.5, and nothing softer.
//!
//! Pure: certificates and the time come in, a SPIFFE ID or the broken rule goes out.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use weft_model::{SpiffeId, TrustDomain};

use crate::certificate::{check_leaf, check_signing, parse, validity};
use crate::crypto;
use crate::fault::PeerError;
use crate::federated::Federated;
use crate::svid::{Svid, TrustBundle};

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

/// What a certificate is presented for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The peer accepted the connection.
    Server,
    /// The peer opened it.
    Client,
}

/// The CA that issued this process's own certificate, once its path to the bundle has been verified.
///
/// Nearly every peer is issued by the same CA. As long as that lives, a peer's leaf is checked against it directly, which saves one
/// of the two signature checks of a handshake.
pub(crate) struct VerifiedIssuer {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) anchor: TrustAnchor<'static>,
    pub(crate) not_after: SystemTime,
}

impl fmt::Debug for VerifiedIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedIssuer").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// The same as [`verify`] where there are bundles of other trust domains: each peer is judged by that of its own, and by no other
/// (SPIFFE Federation s.7.3).
pub(crate) fn verify_among(
    own: &TrustBundle,
    federated: &Federated,
    issuer: Option<&VerifiedIssuer>,
    leaf: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
    now: UnixTime,
    role: Role,
) -> Result<SpiffeId, PeerError> {
    if federated.is_empty() {
        return verify(own, issuer, leaf, rest, now, role);
    }
    let domain = check_leaf(&parse(leaf)?)?.trust_domain();
    match federated.get(&domain).filter(|_| domain != *own.trust_domain()) {
        Some(foreign) => verify(foreign, None, leaf, rest, now, role).map_err(|error| match error {
            // It is the peer's roots that have run out, and not this process's identity.
            PeerError::Own(fault) => PeerError::ForeignBundle(domain, fault.to_string()),
            other => other,
        }),
        None => verify(own, issuer, leaf, rest, now, role),
    }
}

/// All of X.509-SVID s.5 for one presented chain, leaf first, against this process's bundle. `issuer` is a short way that leads to the
/// same answer.
pub(crate) fn verify(
    bundle: &TrustBundle,
    issuer: Option<&VerifiedIssuer>,
    leaf: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
    now: UnixTime,
    role: Role,
) -> Result<SpiffeId, PeerError> {
    verify_path(bundle, issuer, leaf, rest, now, role).map(|(id, _)| id)
}

/// The same, with the issuers that the path leads over, the leaf's own first; none on the short way.
fn verify_path(
    bundle: &TrustBundle,
    issuer: Option<&VerifiedIssuer>,
    leaf: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
    now: UnixTime,
    role: Role,
) -> Result<(SpiffeId, Vec<CertificateDer<'static>>), PeerError> {
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
    let algorithms = crypto::provider().signature_verification_algorithms.all;
    let check = |anchors: &[TrustAnchor<'_>], rest| {
        let path = end_entity.verify_for_usage(algorithms, anchors, rest, now, usage, None, None)?;
        Ok::<Vec<CertificateDer<'static>>, webpki::Error>(
            path.intermediate_certificates().map(|issuer| issuer.der().into_owned()).collect(),
        )
    };
    // The short way: the same issuer as ours, verified before. Whatever fails on it is judged, and explained, the long way.
    if let Some(issuer) = issuer
        && rest.first() == Some(&issuer.certificate)
        && at(now) <= issuer.not_after
        && check(std::slice::from_ref(&issuer.anchor), &[]).is_ok()
    {
        return Ok((id, Vec::new()));
    }
    let path = check(&bundle.anchors(at(now))?, rest);
    let path = path.map_err(|error| match error {
        webpki::Error::CertExpired { time, not_after } => PeerError::Expired { id: id.clone(), now: time, not_after },
        webpki::Error::CertNotValidYet { time, not_before } => {
            PeerError::NotYetValid { id: id.clone(), now: time, not_before }
        }
        webpki::Error::UnknownIssuer => PeerError::UnknownIssuer(id.clone(), domain.clone()),
        other => PeerError::Chain(id.clone(), other),
    })?;
    for issuer in &path {
        check_signing(&parse(issuer)?, domain).map_err(|why| PeerError::Issuer(id.clone(), why))?;
    }
    Ok((id, path))
}

/// The issuing CA of this process's own chain, if that chain holds up against the bundle.
pub(crate) fn verified_issuer(svid: &Svid, bundle: &TrustBundle, now: UnixTime) -> Option<VerifiedIssuer> {
    let [leaf, rest @ ..] = svid.chain() else { return None };
    let issuer = rest.first()?;
    if bundle.roots().contains(issuer) {
        return None; // issued by the root itself: the path is as short as it gets
    }
    let (_, path) = verify_path(bundle, None, leaf, rest, now, Role::Server).ok()?;
    if path.first() != Some(issuer) {
        return None; // the path that was verified leads over another
    }
    let anchor = webpki::anchor_from_trusted_cert(issuer).ok()?.to_owned();
    // It is of no use without those above it; which root that is does not matter when none has run out.
    let mut not_after = bundle.first_end()?;
    for certificate in &path {
        not_after = not_after.min(validity(&parse(certificate).ok()?).1);
    }
    Some(VerifiedIssuer { certificate: issuer.clone(), anchor, not_after })
}

/// The moment on the clock that identities are judged by, to the second.
pub(crate) fn at(now: UnixTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(now.as_secs())
}

#[cfg(test)]
mod tests;
