//! What changed since the last round, and whom that concerns. Pure.

use std::collections::BTreeSet;

use weft_compile::{CompiledMesh, Proxy};

use crate::registry::Touched;

/// What the next round must publish.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    /// A commit was put in force.
    pub(super) everyone: bool,
    /// Services whose endpoints are others now.
    pub(super) callers_of: Touched,
    /// Streams whose own proxy is another now.
    pub(super) streams: BTreeSet<u64>,
}

impl Dirty {
    pub(super) fn is_clean(&self) -> bool {
        !self.everyone && self.callers_of.is_empty() && self.streams.is_empty()
    }

    /// Whether a stream, which speaks for `proxy`, must be sent something.
    pub(super) fn concerns(&self, stream: u64, proxy: &Proxy, mesh: &CompiledMesh) -> bool {
        self.everyone
            || self.streams.contains(&stream)
            || self.callers_of.iter().any(|callee| mesh.policy().may_call(&proxy.service, callee))
    }
}
