//! The door of the ADS server: who may open a stream, and where its news goes.

use std::sync::Arc;

use tonic::Status;
use weft_model::SpiffeId;
use weft_xds::{Directory, Nack, Node, Observer, Snapshot, Subscription};

use crate::hub::{Hub, Opened};

/// Serves every proxy of the mesh its own snapshots.
#[derive(Clone)]
pub struct MeshDirectory(pub(crate) Arc<Hub>);

#[tonic::async_trait]
impl Directory for MeshDirectory {
    async fn open(&self, peer: Option<SpiffeId>, node: &Node) -> Result<Subscription, Status> {
        let Opened { stream, node: name, snapshots } = self.0.open(peer, node).inspect_err(|status| {
            tracing::warn!(node = node.id, reason = status.message(), "an xDS stream was refused");
        })?;
        tracing::info!(node = &*name, "connected");
        Ok(Subscription { snapshots, observer: Box::new(Follower { hub: self.0.clone(), stream, node: name }) })
    }
}

struct Follower {
    hub: Arc<Hub>,
    stream: u64,
    node: Arc<str>,
}

impl Observer for Follower {
    fn node(&mut self, node: &Node) -> Result<(), Status> {
        self.hub.node_changed(self.stream, node)
    }

    fn sent(&mut self, type_url: &'static str, count: usize, bytes: usize) {
        self.hub.sent(self.stream, &self.node, type_url, count, bytes);
    }

    fn ack(&mut self, type_url: &'static str, _revision: &str, still_refused: &[Arc<str>]) {
        self.hub.acked(self.stream, &self.node, type_url, still_refused);
    }

    fn nack(&mut self, nack: &Nack) {
        self.hub.nacked(self.stream, &self.node, nack);
    }

    fn settled_snapshot(&mut self, snapshot: &Arc<Snapshot>) {
        self.hub.settled(self.stream, &self.node, &snapshot.revision, snapshot.serial);
    }

    fn closed(&mut self) {
        tracing::info!(node = &*self.node, "disconnected");
        self.hub.closed(self.stream);
    }
}

/// A stream that is dropped without a word is closed all the same.
impl Drop for Follower {
    fn drop(&mut self) {
        self.hub.closed(self.stream);
    }
}
