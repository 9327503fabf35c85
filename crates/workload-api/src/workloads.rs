//! The seam behind the API: whose identities a caller may have. Today a sidecar's own app ([`crate::OneWorkload`]); an agent of a whole
//! machine, which attests what each process is, stands here too.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;
use tonic::Status;
use weft_identity::{Audience, Svid, TrustBundle};
use weft_model::{SpiffeId, TrustDomain};

use crate::caller::Caller;

/// No hint is longer, in bytes (Workload API s.8).
const MAX_HINT: usize = 1024;

/// Knows the workloads of a machine.
#[tonic::async_trait]
pub trait Workloads: Send + Sync + 'static {
    /// What this caller is entitled to, now and after each change.
    ///
    /// # Errors
    /// The status for the caller: `UNAVAILABLE` when it could not be found out who it is, which is not the same as being nobody.
    async fn attest(&self, caller: &Caller) -> Result<watch::Receiver<Entitlement>, Status>;

    /// A JWT-SVID, in compact form, of an identity that the caller was granted.
    ///
    /// # Errors
    /// The status for the caller.
    async fn jwt_svid(&self, caller: &Caller, id: &SpiffeId, audience: &Audience) -> Result<Arc<str>, Status>;
}

/// What a caller may have.
#[derive(Clone, Debug, Default)]
pub enum Entitlement {
    /// It is not known yet: the agent has heard nothing from its control plane. Clients keep what they have.
    #[default]
    NotYet,
    /// Nothing, or nothing any more: clients throw away what they have.
    Nothing,
    /// This.
    Granted(Arc<Grant>),
}

/// The identities of a caller, and by what it judges others.
#[derive(Clone, Debug)]
pub struct Grant {
    /// One at least; the first is the default (Workload API s.8).
    pub identities: Vec<Granted>,
    /// Of the trust domain of the identities.
    pub bundle: Arc<TrustBundle>,
    /// Of other trust domains.
    pub federated: Vec<Arc<TrustBundle>>,
}

/// One identity.
#[derive(Clone, Debug)]
pub struct Granted {
    /// Certificate and key.
    pub svid: Arc<Svid>,
    /// What it is for, where there are several. One of more than 1024 bytes, or that another identity before it has, is not told.
    pub hint: String,
}

impl Entitlement {
    /// The grant.
    ///
    /// # Errors
    /// The status for a caller that has none.
    pub fn grant(&self) -> Result<&Arc<Grant>, Status> {
        match self {
            Self::Granted(grant) if grant.identities.is_empty() => Err(no_identity()),
            Self::Granted(grant) => Ok(grant),
            Self::Nothing => Err(no_identity()),
            Self::NotYet => Err(Status::unavailable("the agent has no identity for its workloads yet; try again")),
        }
    }
}

impl Grant {
    /// The identities whose certificates have not run out: clients do not look.
    pub(crate) fn living(&self, now: SystemTime) -> impl Iterator<Item = &Granted> {
        self.identities.iter().filter(move |granted| now < granted.svid.not_after())
    }

    /// All bundles, that of the own trust domain first.
    pub(crate) fn bundles(&self) -> impl Iterator<Item = &Arc<TrustBundle>> {
        std::iter::once(&self.bundle).chain(&self.federated)
    }

    /// The bundle of a trust domain.
    pub(crate) fn bundle_of(&self, domain: &TrustDomain) -> Option<&Arc<TrustBundle>> {
        self.bundles().find(|bundle| bundle.trust_domain() == domain)
    }
}

/// Identities with the hints that are told of them: each stands once in a message (Workload API s.5.2.1, s.6.2.1, s.8).
pub(crate) fn hinted<'a>(
    identities: impl Iterator<Item = &'a Granted>,
) -> impl Iterator<Item = (&'a Granted, &'a str)> {
    let mut told = HashSet::new();
    identities.map(move |granted| {
        let hint = granted.hint.as_str();
        (granted, if hint.len() <= MAX_HINT && told.insert(hint) { hint } else { "" })
    })
}

/// Who matches nothing (Workload API s.5.2.1). Real clients know this text, which is SPIRE's, and ask less often after it.
pub fn no_identity() -> Status {
    Status::permission_denied("no identity issued")
}
