//! The agent as a whole: what stands behind its socket.

use std::path::Path;
use std::sync::Arc;

use tonic::Status;
use tonic::service::Routes;
use weft_identity::sds::Copies;
use weft_identity::{Audience, Identity, OwnFault};
use weft_model::{AgentName, SpiffeId};
use weft_workload_api::{Caller, Entitlement, Listener, no_identity, serve};

use crate::renewal;
use crate::secrets::Secrets;
use crate::watched::Attested;
use crate::workloads::Workloads;

/// Its endpoint failed.
pub type AgentError = tonic::transport::Error;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Agent {
    all: Arc<Workloads>,
    copies: Copies,
}

impl Agent {
    /// With what an earlier run has left in the state folder: what has not run out is served from there.
    pub fn open(name: AgentName, state: &Path) -> Self {
        let (all, new) = Workloads::open(name, state);
        tokio::spawn(renewal::keep_all(all.clone(), new));
        Self { all, copies: Copies::default() }
    }

    /// Serves the SPIFFE Workload API and SDS, until the listener fails.
    ///
    /// # Errors
    /// The server could not be built.
    pub async fn serve(&self, listener: Listener) -> Result<(), AgentError> {
        let secrets = Secrets { all: self.all.clone(), copies: self.copies.clone() };
        let beside = Routes::new(secrets.service());
        serve(listener.holding_processes(), Arc::new(self.clone()), beside).await
    }

    /// The agent has an identity of its own: from now on it asks the control plane for those of others.
    pub fn begin(&self, identity: &Identity) {
        self.copies.follow(identity.live());
        self.all.begin(identity);
    }

    /// What keeps it from doing its work, in a word for machines and in words for people.
    ///
    /// # Errors
    /// It has no usable identity, or does not know yet whose identities there are.
    pub fn ready(&self) -> Result<(), (String, String)> {
        let Some(live) = self.all.live() else {
            return Err(("INITIALIZING".to_owned(), OwnFault::Missing.to_string()));
        };
        if let Some(fault) = live.fault() {
            return Err((fault.cause().to_ascii_uppercase(), fault.to_string()));
        }
        if self.all.assigned().is_none() {
            let why = "the control plane has not said yet whose identities there are on this machine";
            return Err(("INITIALIZING".to_owned(), why.to_owned()));
        }
        Ok(())
    }

    /// For Prometheus.
    pub fn metrics(&self) -> String {
        let own = self.all.live().and_then(|live| live.load().svid().map(|svid| svid.not_after()));
        self.all.metrics.render(&self.all.expiries(), own)
    }
}

#[tonic::async_trait]
impl weft_workload_api::Workloads for Agent {
    async fn attest(&self, caller: &Caller) -> Result<tokio::sync::watch::Receiver<Entitlement>, Status> {
        Ok(Attested::new(&self.all, caller).await?.follow().await)
    }

    /// The caller is looked at once more: it was granted the identity a moment ago, and may be another program by now.
    async fn jwt_svid(&self, caller: &Caller, id: &SpiffeId, audience: &Audience) -> Result<Arc<str>, Status> {
        let leases = Attested::new(&self.all, caller).await?.leases();
        let service = id.service();
        let lease =
            leases.iter().find(|lease| Some(&lease.workload.service) == service.as_ref()).ok_or_else(no_identity)?;
        Ok(self.all.token(lease, audience).await?.text)
    }
}
