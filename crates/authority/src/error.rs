//! Why the authority could not do its work.

use weft_identity::SvidError;
use weft_identity::ca::CaError;
use weft_model::TrustDomain;
use weft_store::StoreError;
use weft_upstream::UpstreamError;

use crate::trust::UnknownKey;

/// Why the authority could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The store failed or holds something forged.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A certificate could not be made.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// A certificate that was made is not usable.
    #[error(transparent)]
    Svid(#[from] SvidError),
    /// A CA outside has not signed this server's issuing CA, and there is none.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The store belongs to another mesh.
    #[error(
        "the stored CA is not for trust domain {0}: {1}; give this mesh its own state folder, or put `trustDomain` back as it was"
    )]
    OtherTrustDomain(TrustDomain, String),
    /// Other servers may have forgotten by now what this one would issue under.
    #[error("this server has not reached the store that it shares for {0} s, and issues nothing until it has")]
    CutOff(u64),
    /// Everybody has to hold the first key for JWT-SVIDs before it signs.
    #[error(
        "no key signs JWT-SVIDs yet: it is waited for until every workload holds the first; `weft identity tree` shows who does not"
    )]
    NoJwtKey,
    /// No such key.
    #[error(transparent)]
    UnknownKey(#[from] UnknownKey),
    /// Others changed what the trust domain vouches with, again and again.
    #[error("what the trust domain vouches with is changed by other servers all the time; try again")]
    Contended,
}
