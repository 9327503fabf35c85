//! What the agent serves to a local Envoy beside its configuration: certificates, and decisions by the mesh's policy.

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use tonic::Status;
use weft_identity::LiveIdentity;
use weft_identity::sds::{self, Copies};
use weft_model::SpiffeId;
use weft_policy::{Bundle, Engine};
use weft_xds::{Directory, Node, Rejection, Relay, Sink, Snapshot, Subscription, TakenBack, Update, type_url};

/// SDS: whoever may open the socket is this sidecar's own Envoy.
pub(crate) struct Secrets {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    copies: Copies,
}

impl Secrets {
    /// Of this identity, which is told what Envoy has of it.
    pub(crate) fn new(identity: &Arc<LiveIdentity>) -> Self {
        let copies = Copies::default();
        copies.follow(identity);
        Self { snapshots: sds::snapshots(identity.clone()), copies }
    }
}

#[tonic::async_trait]
impl Directory for Secrets {
    async fn open(&self, _: Option<SpiffeId>, _: &Node) -> Result<Subscription, Status> {
        Ok(Subscription { snapshots: self.snapshots.clone(), observer: self.copies.observer() })
    }
}

/// The policy in force; none until one was delivered, and then nothing is allowed.
#[derive(Clone, Default)]
pub(crate) struct Policy {
    engine: Arc<ArcSwapOption<Engine>>,
    commit: Arc<ArcSwapOption<Arc<str>>>,
}

impl Policy {
    pub(crate) fn engine(&self) -> Option<Arc<Engine>> {
        self.engine.load_full()
    }

    /// The commit that is in force, empty before the first.
    pub(crate) fn commit(&self) -> Arc<str> {
        self.commit.load().as_deref().cloned().unwrap_or_default()
    }

    fn set(&self, engine: Option<Arc<Engine>>) {
        self.engine.store(engine);
    }
}

/// Passes configuration on to Envoy and keeps the policy here.
pub(crate) struct EnvoySink {
    pub(crate) relay: Relay,
    pub(crate) policy: Policy,
}

#[tonic::async_trait]
impl Sink for EnvoySink {
    async fn apply(&mut self, update: Update) -> Vec<Rejection> {
        match update.type_url {
            type_url::POLICY_BUNDLE => self.take_policy(&update),
            type_url::REVISION => {
                if let Some(revision) = update.changed.first() {
                    let commit = String::from_utf8_lossy(&revision.any.value);
                    tracing::info!(%commit, "configuration is in force");
                    self.policy.commit.store(Some(Arc::new((&*commit).into())));
                }
                Vec::new()
            }
            _ => self.relay.apply(update).await,
        }
    }

    fn wanted(&self, type_url: &'static str) -> BTreeSet<Arc<str>> {
        self.relay.wanted(type_url)
    }

    async fn late(&mut self) -> TakenBack {
        self.relay.late().await
    }
}

impl EnvoySink {
    fn take_policy(&self, update: &Update) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        for resource in &update.changed {
            match Bundle::from_bytes(&resource.any.value).and_then(|bundle| Engine::new(&bundle)) {
                Ok(engine) => self.policy.set(Some(Arc::new(engine))),
                Err(error) => rejections.push(Rejection { name: resource.name.clone(), reason: error.to_string() }),
            }
        }
        let in_force = self.policy.engine();
        if in_force.is_some_and(|engine| update.removed.iter().any(|name| **name == *engine.service().as_str())) {
            self.policy.set(None);
        }
        rejections
    }
}
