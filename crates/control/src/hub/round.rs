//! One round of publishing: who is sent a snapshot, and of what. Pure.

use std::sync::Arc;

use tokio::sync::watch;
use weft_compile::{CompiledMesh, EndpointSet, Proxy};
use weft_xds::Snapshot;

use super::state::State;

/// What one round compiles and for whom.
pub(super) struct Round {
    pub(super) mesh: Arc<CompiledMesh>,
    pub(super) endpoints: EndpointSet,
    pub(super) generation: u64,
    pub(super) streams: Vec<(Proxy, Arc<watch::Sender<Arc<Snapshot>>>)>,
}

impl State {
    /// Everything that is dirty now, which is clean then. `None` if there is nothing to do, or no mesh yet.
    pub(super) fn take_round(&mut self) -> Option<Round> {
        let mesh = self.mesh.clone()?;
        if self.dirty.is_clean() {
            return None;
        }
        let dirty = std::mem::take(&mut self.dirty);
        self.generation += 1;
        let mut streams = Vec::new();
        for (id, stream) in &self.streams {
            if dirty.concerns(*id, &stream.proxy, &mesh) {
                self.tracker.published(&stream.introduction.node, *id, self.generation);
                streams.push((stream.proxy.clone(), stream.snapshots.clone()));
            }
        }
        Some(Round { mesh, endpoints: self.endpoints.clone(), generation: self.generation, streams })
    }
}

/// What a proxy is sent in a generation.
pub(super) fn compose(mesh: &CompiledMesh, endpoints: &EndpointSet, proxy: &Proxy, generation: u64) -> Snapshot {
    let mut snapshot = weft_compile::compile(mesh, endpoints, proxy);
    snapshot.serial = generation;
    snapshot
}
