//! What can be wrong with an identity: with a peer's, by the rule that it breaks, and with this process's own.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::UnixTime;
use rustls::{CertificateError, OtherError};
use weft_model::{NameError, SpiffeId, TrustDomain};

/// Why this process's own identity is of no use now. Times are in seconds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OwnFault {
    /// There is nothing to show and nothing to verify with.
    #[error("this process has no identity yet, so it can verify nobody; it gets one by attesting with a join token")]
    Missing,
    /// Its certificate has run out.
    #[error(
        "this process's own certificate expired {ago} s ago and was not renewed: {id} makes and takes no new mesh \
         connection until it has another"
    )]
    Expired {
        /// Whose it is.
        id: SpiffeId,
        /// Since when.
        ago: u64,
    },
    /// By this machine's clock its certificate is one of the future.
    #[error("this process's own certificate, of {id}, is valid only in {in_seconds} s; is this machine's clock wrong?")]
    NotYetValid {
        /// Whose it is.
        id: SpiffeId,
        /// Until when not.
        in_seconds: u64,
    },
    /// Somebody has banned it.
    #[error("this process's own identity, {id}, is banned: {reason}")]
    Banned {
        /// Whose it is.
        id: SpiffeId,
        /// Why, in the words of who did it.
        reason: String,
    },
    /// Every root of the trust bundle has run out.
    #[error("the root certificate of trust domain {domain} expired {ago} s ago, so nobody can be verified by it")]
    BundleExpired {
        /// Whose bundle it is.
        domain: TrustDomain,
        /// Since when, by the root that lived longest.
        ago: u64,
    },
}

impl OwnFault {
    /// One snake_case word for logs, problems and probes.
    pub fn cause(&self) -> &'static str {
        match self {
            Self::Missing => "identity_missing",
            Self::Expired { .. } => "identity_expired",
            Self::NotYetValid { .. } => "identity_not_yet_valid",
            Self::Banned { .. } => "identity_banned",
            Self::BundleExpired { .. } => "trust_bundle_expired",
        }
    }
}

/// The rule that a peer's certificate breaks. `Debug` prints the same sentence as `Display`, because TLS errors are printed so.
#[derive(Clone, thiserror::Error)]
pub enum PeerError {
    /// It is not the peer that is at fault.
    #[error(transparent)]
    Own(#[from] OwnFault),
    /// The peer sent no certificate.
    #[error("the peer sent no certificate")]
    NoCertificate,
    /// No certificate of the peer is the root that a join token names.
    #[error("the server is not of the mesh that this join token is for (no certificate has the token's pin)")]
    NotPinned,
    /// Those by which the control plane is to be known are of no use here.
    #[error("the roots of the mesh on this machine do not judge the server: {0}; is it of another mesh?")]
    Roots(String),
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
    /// Somebody has banned the peer: its identity, its machine or this very certificate.
    #[error("{id} is banned: {reason}")]
    Banned {
        /// Who.
        id: SpiffeId,
        /// Why, in the words of who did it.
        reason: String,
    },
    /// There is no bundle for the peer's trust domain.
    #[error("the peer {0} is of another trust domain than {1}, and there is no bundle for it")]
    ForeignTrustDomain(SpiffeId, TrustDomain),
    /// The bundle of the peer's trust domain is of no use.
    #[error("nobody of trust domain {0} can be verified: {1}")]
    ForeignBundle(TrustDomain, String),
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
