//! The workloads of a sidecar: one, which is whoever runs as the app's user.

use std::sync::{Arc, OnceLock};

use tokio::sync::watch;
use tonic::{Request, Status};
use weft_identity::{Audience, IdentityError, LiveIdentity, OwnFault, Tokens};
use weft_model::SpiffeId;

use crate::caller::Caller;
use crate::service;
use crate::workloads::{Entitlement, Grant, Granted, Workloads, no_identity};

/// See the module. The user is looked at and nothing else: two apps of one user are one to it.
pub struct OneWorkload {
    uid: u32,
    entitled: watch::Sender<Entitlement>,
    tokens: OnceLock<Tokens>,
}

impl OneWorkload {
    /// For this user. Until the identity is there, callers are told to try again.
    pub fn of(uid: u32) -> Arc<Self> {
        Arc::new(Self { uid, entitled: watch::Sender::default(), tokens: OnceLock::new() })
    }

    /// The identity is there: it is handed out from now on, whenever it changes.
    pub fn begin(self: &Arc<Self>, live: Arc<LiveIdentity>, tokens: Tokens) {
        let _ = self.tokens.set(tokens); // the first counts
        let workload = Arc::downgrade(self);
        let (mut changes, mut bans) = (live.subscribe(), live.bans());
        tokio::spawn(async move {
            while let Some(workload) = workload.upgrade() {
                workload.entitled.send_replace(entitlement(&live));
                drop(workload);
                let changed = tokio::select! {
                    changed = changes.changed() => changed,
                    changed = bans.changed() => changed,
                };
                if changed.is_err() {
                    return;
                }
            }
        });
    }

    /// Whether a request to another service of the same endpoint comes from the workload, as an interceptor asks it.
    ///
    /// # Errors
    /// The status for everybody else.
    pub fn check(&self, request: Request<()>) -> Result<Request<()>, Status> {
        self.is_it(&service::caller(&request)?)?;
        Ok(request)
    }

    fn is_it(&self, caller: &Caller) -> Result<(), Status> {
        if caller.uid == self.uid { Ok(()) } else { Err(no_identity()) }
    }
}

fn entitlement(live: &LiveIdentity) -> Entitlement {
    if let Some(OwnFault::Banned { .. }) = live.fault() {
        return Entitlement::Nothing;
    }
    let state = live.load_full();
    match (state.svid(), state.bundle()) {
        // An empty bundle spoils all that real clients have.
        (Some(svid), Some(bundle)) if !bundle.roots().is_empty() => Entitlement::Granted(Arc::new(Grant {
            identities: vec![Granted { svid: svid.clone(), hint: String::new() }],
            bundle: bundle.clone(),
            federated: state.federated().iter().filter(|bundle| !bundle.roots().is_empty()).cloned().collect(),
        })),
        _ => Entitlement::NotYet,
    }
}

#[tonic::async_trait]
impl Workloads for OneWorkload {
    async fn attest(&self, caller: &Caller) -> Result<watch::Receiver<Entitlement>, Status> {
        self.is_it(caller)?;
        Ok(self.entitled.subscribe())
    }

    async fn jwt_svid(&self, caller: &Caller, id: &SpiffeId, audience: &Audience) -> Result<Arc<str>, Status> {
        self.is_it(caller)?;
        let tokens = self.tokens.get().ok_or_else(|| Status::unavailable("there is no identity yet; try again"))?;
        let token = tokens.fetch(audience).await.map_err(|error| refuse(&error))?;
        if token.id != *id {
            return Err(Status::unavailable("the identity has just become another one; try again"));
        }
        Ok(token.text)
    }
}

/// What the control plane said, or that it says nothing. That it refuses one token takes no identity away: real clients would take
/// PERMISSION_DENIED for that.
fn refuse(error: &IdentityError) -> Status {
    tracing::warn!(%error, "the app got no JWT-SVID");
    Status::unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use weft_identity::ca::{Ca, KeyRequest, requested_key};
    use weft_identity::{Ban, Banned, Bans, Federated, Names, Svid, TrustBundle};

    use super::*;

    #[test]
    fn a_banned_app_has_no_identity_until_the_ban_is_lifted() {
        let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
        let id: SpiffeId = "spiffe://acme.internal/ns/prod/sa/web".parse().unwrap();
        let root = Ca::root(&id.trust_domain(), now, hour).unwrap();
        let request = KeyRequest::new().unwrap();
        let key = requested_key(&request.csr).unwrap();
        let leaf = root.leaf(&key, &id, None, &Names::default(), now, now + hour).unwrap();
        let live = LiveIdentity::empty();
        assert!(matches!(entitlement(&live), Entitlement::NotYet));
        let bundle = TrustBundle::new(id.trust_domain(), vec![root.certificate().clone()]).unwrap();
        live.set(Svid::from_der(vec![leaf], &request.key).unwrap(), bundle);
        assert!(matches!(entitlement(&live), Entitlement::Granted(_)));
        let ban = Ban { reason: "it talks to strangers".to_owned(), since: 0 };
        live.set_bans(Bans::new([(Banned::Identity(id), ban)]));
        assert!(matches!(entitlement(&live), Entitlement::Nothing));
        live.set_bans(Bans::default());
        assert!(matches!(entitlement(&live), Entitlement::Granted(_)));
    }

    #[test]
    fn bundles_of_other_trust_domains_come_and_go_with_the_identity() {
        let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
        let id: SpiffeId = "spiffe://acme.internal/ns/prod/sa/web".parse().unwrap();
        let root = |domain: &str| Ca::root(&domain.parse().unwrap(), now, hour).unwrap();
        let bundle =
            |domain: &str, ca: &Ca| TrustBundle::new(domain.parse().unwrap(), vec![ca.certificate().clone()]).unwrap();
        let own = root("acme.internal");
        let request = KeyRequest::new().unwrap();
        let key = requested_key(&request.csr).unwrap();
        let leaf = own.leaf(&key, &id, None, &Names::default(), now, now + hour).unwrap();
        let live = LiveIdentity::empty();
        live.set(Svid::from_der(vec![leaf], &request.key).unwrap(), bundle("acme.internal", &own));
        let federated = || match entitlement(&live) {
            Entitlement::Granted(grant) => {
                grant.federated.iter().map(|bundle| bundle.trust_domain().to_string()).collect::<Vec<_>>()
            }
            _ => panic!("it has an identity"),
        };
        assert!(federated().is_empty());
        let empty = TrustBundle::new("east.test".parse().unwrap(), Vec::new()).unwrap();
        live.set_federated(Federated::new([bundle("west.test", &root("west.test")), empty]));
        assert_eq!(federated(), ["west.test"], "an empty bundle spoils all that real clients have");
        live.set_federated(Federated::default());
        assert!(federated().is_empty());
    }
}
