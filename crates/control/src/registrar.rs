//! What the identity service asks the mesh: may this service have an identity, and take this endpoint out.

use std::sync::Arc;
use std::time::Duration;

use tonic::Status;
use weft_identity::{Admission, Registrar, Withdrawal};
use weft_model::{ServiceName, SpiffeId};

use crate::hub::Hub;

/// How long a withdrawing sidecar is kept waiting for its callers.
const WITHDRAW_BOUND: Duration = Duration::from_secs(5);

pub(crate) struct MeshRegistrar(pub(crate) Arc<Hub>);

#[tonic::async_trait]
impl Registrar for MeshRegistrar {
    fn admits(&self, service: &ServiceName) -> Option<Admission> {
        let mesh = self.0.state().mesh.clone()?;
        let intent = mesh.intent();
        intent.services.contains_key(service).then_some(Admission { ttl: intent.mesh.defaults.svid_ttl })
    }

    async fn withdraw(&self, peer: &SpiffeId, node_id: &str) -> Result<Withdrawal, Status> {
        let own = peer
            .service()
            .is_some_and(|service| node_id.strip_prefix(service.as_str()).is_some_and(|rest| rest.starts_with('~')));
        if !own {
            return Err(Status::permission_denied(format!(
                "this certificate is {peer}; it cannot withdraw node {node_id}"
            )));
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
}
