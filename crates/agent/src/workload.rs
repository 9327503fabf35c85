//! One service in use on this machine: its certificate, which all its processes share, and its JWT-SVIDs.

use std::sync::Arc;

use tokio::sync::{Notify, watch};
use weft_identity::Svid;
use weft_identity::tokens::Kept;
use weft_model::ServiceName;

/// See the module.
pub(crate) struct Workload {
    pub(crate) service: ServiceName,
    /// What the first process is that asked for it, for the records of the control plane.
    pub(crate) evidence: String,
    pub(crate) state: watch::Sender<State>,
    pub(crate) tokens: Kept,
    pub(crate) renew: Notify,
}

/// Its certificate, and why there is no newer one.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) svid: Option<Arc<Svid>>,
    pub(crate) error: Option<Arc<str>>,
}

impl Workload {
    pub(crate) fn new(service: ServiceName, evidence: String) -> Arc<Self> {
        let (state, tokens) = (watch::Sender::default(), Kept::default());
        Arc::new(Self { service, evidence, state, tokens, renew: Notify::new() })
    }

    /// Another certificate is wanted, whatever the life of the present one.
    pub(crate) fn renew(&self) {
        self.renew.notify_one();
    }
}
