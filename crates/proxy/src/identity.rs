//! Whose identity it is that keeps a mesh connection from coming about, in the words of a failure.

use std::io;

use weft_identity::OwnFault;
use weft_identity::tls::{Culprit, culprit};
use weft_telemetry::Failure;

/// Of this sidecar's own.
pub(crate) fn own(fault: &OwnFault) -> Failure {
    match fault {
        OwnFault::Missing => Failure::IdentityMissing,
        OwnFault::Expired { .. } => Failure::IdentityExpired,
        OwnFault::NotYetValid { .. } => Failure::IdentityNotYetValid,
        OwnFault::Banned { .. } => Failure::IdentityBanned,
        OwnFault::BundleExpired { .. } => Failure::TrustBundleExpired,
    }
}

/// Of a TLS handshake that failed.
pub(crate) fn handshake(error: &io::Error) -> Failure {
    match culprit(error) {
        Culprit::Own(fault) => own(&fault),
        Culprit::OwnToPeer => Failure::IdentityRefused,
        Culprit::PeerExpired => Failure::PeerIdentityExpired,
        Culprit::PeerNotYetValid => Failure::PeerIdentityNotYetValid,
        Culprit::PeerMissing => Failure::PeerIdentityMissing,
        Culprit::PeerBanned => Failure::PeerIdentityBanned,
        Culprit::Unknown => Failure::TlsFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_log_and_answer_name_a_fault_alike() {
        let (id, domain) = ("spiffe://acme.internal/ns/prod/sa/web", "acme.internal");
        let id = || id.parse().expect("legal");
        let faults = [
            OwnFault::Missing,
            OwnFault::Expired { id: id(), ago: 3 },
            OwnFault::NotYetValid { id: id(), in_seconds: 3 },
            OwnFault::Banned { id: id(), reason: "stolen".into() },
            OwnFault::BundleExpired { domain: domain.parse().expect("legal"), ago: 3 },
        ];
        for fault in faults {
            assert_eq!(own(&fault).facts().cause, fault.cause());
        }
    }
}
