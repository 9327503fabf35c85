//! What the identity service asks the mesh: may this service have an identity, and take this endpoint out.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tonic::Status;
use weft_authority::{Admission, Registrar};
use weft_identity::proto::PlainTextReport;
use weft_identity::{Assignment, Withdrawal};
use weft_model::intent::{NodeEntry, Service};
use weft_model::{AgentName, SpiffeId, Subject};

use crate::hub::Hub;
use crate::node::is_of;
use crate::plain_text;
use crate::status::unix_seconds;

/// How long a withdrawing sidecar is kept waiting for its callers.
const WITHDRAW_BOUND: Duration = Duration::from_secs(5);

pub(crate) struct MeshRegistrar(pub(crate) Arc<Hub>);

#[tonic::async_trait]
impl Registrar for MeshRegistrar {
    fn admits(&self, subject: &Subject) -> Option<Admission> {
        let mesh = self.0.state().mesh.clone()?;
        let intent = mesh.intent();
        let mesh = &intent.mesh;
        let admission =
            Admission { ttl: mesh.defaults.svid_ttl, machine_life: mesh.identity.machine_life, dns_names: Vec::new() };
        match subject {
            Subject::Service(service) => {
                let own = &intent.services.get(service)?.identity;
                let ttl = own.svid_ttl.unwrap_or(admission.ttl);
                Some(Admission { ttl, dns_names: own.dns_names.clone(), ..admission })
            }
            // Whoever may make join tokens, or has an entry of `nodes`, says which agents there are.
            Subject::Agent(_) => Some(admission),
        }
    }

    fn nodes(&self) -> Arc<[NodeEntry]> {
        let mesh = self.0.state().mesh.clone();
        mesh.map(|mesh| mesh.intent().mesh.identity.nodes.clone()).unwrap_or_default()
    }

    fn assignments(&self, agent: &AgentName) -> Vec<Assignment> {
        let Some(mesh) = self.0.state().mesh.clone() else { return Vec::new() };
        let intent = mesh.intent();
        let assignment = |service: &Service| {
            let here = service.attest.iter().filter(|entry| entry.is_for(agent));
            let any: Vec<_> = here.map(|entry| entry.selectors.clone()).collect();
            let svid_ttl = service.identity.svid_ttl.unwrap_or(intent.mesh.defaults.svid_ttl);
            (!any.is_empty()).then(|| Assignment { service: service.name.clone(), any, svid_ttl })
        };
        intent.services.values().filter_map(assignment).collect()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.progress()
    }

    async fn withdraw(&self, peer: &SpiffeId, node_id: &str) -> Result<Withdrawal, Status> {
        if !peer.service().is_some_and(|service| is_of(node_id, &service)) {
            return Err(Status::permission_denied(format!(
                "this certificate is {peer}; it cannot withdraw node {node_id}"
            )));
        }
        if self.0.state().issued.forget(node_id) {
            self.0.issued_changed.notify_one();
        }
        let withdrawn = self.0.withdraw(node_id, WITHDRAW_BOUND).await;
        tracing::info!(
            node = node_id,
            callers_told = withdrawn.acknowledged,
            callers_silent = withdrawn.waiting,
            "the endpoint is withdrawn"
        );
        Ok(Withdrawal { acknowledged: withdrawn.acknowledged as u32, waiting: withdrawn.waiting as u32 })
    }

    fn plain_text(&self, peer: &SpiffeId, report: PlainTextReport) -> Result<(), Status> {
        let service = peer.service();
        let service = service.ok_or_else(|| Status::permission_denied(format!("{peer} is no service of this mesh")))?;
        let callers = plain_text::read(report, unix_seconds(SystemTime::now()));
        self.0.state().plain_text.take(&service, callers);
        Ok(())
    }

    fn issued(&self, id: &SpiffeId, node_id: &str, not_after: SystemTime) {
        let now = unix_seconds(SystemTime::now());
        if self.0.state().issued.issue(id, node_id, unix_seconds(not_after), now) {
            self.0.issued_changed.notify_one();
        }
    }
}
