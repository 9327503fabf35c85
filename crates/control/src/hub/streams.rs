//! Streams that come, change and go, and what each means to the state. Pure.

use std::sync::Arc;

use tokio::sync::watch;
use tonic::Status;
use weft_model::SpiffeId;
use weft_xds::{Node, Snapshot};

use super::proxy::proxy_of;
use super::round::compose;
use super::state::{State, Stream};
use crate::node::{Introduction, NodeKind, introduce};
use crate::registry::{Registration, Touched};
use crate::text::short;
use crate::tracker::Now;

/// A stream that was let in.
pub(crate) struct Opened {
    pub(crate) stream: u64,
    pub(crate) node: Arc<str>,
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
}

/// What the end of a stream left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Another stream speaks for the node from now on. Says whether the endpoints are others by that.
    Heir { endpoints_changed: bool },
    /// Nothing that a proxy must hear of now: an endpoint that lost its stream waits for it to come back.
    Nothing,
}

impl State {
    /// Lets a stream in, with its first snapshot, so that it never sees an empty mesh that is not. Also returns whether the endpoints
    /// are others now.
    pub(super) fn admit(&mut self, peer: Option<SpiffeId>, node: &Node, now: Now) -> Result<(Opened, bool), Status> {
        let Some(mesh) = self.mesh.clone() else {
            return Err(Status::unavailable("no commit has passed the check yet: see `weft status`"));
        };
        let introduction = introduce(peer, node, &mesh.intent().mesh.trust_domain)?;
        if !mesh.intent().services.contains_key(&introduction.service) {
            return Err(Status::failed_precondition(format!(
                "commit {} has no service {}; add a Service document for it",
                short(mesh.revision()),
                introduction.service
            )));
        }
        self.last_stream += 1;
        let stream = self.last_stream;
        self.tracker.opened(&introduction.node, stream, introduction.facts(), now);
        let touched = self.register(&introduction);
        let proxy = proxy_of(&introduction);
        // The generation in progress may not hold this node's own registration; the next round will.
        self.generation = self.generation.max(1);
        let first = compose(&mesh, &self.endpoints, &proxy, self.generation);
        self.tracker.published(&introduction.node, stream, self.generation);
        let (sender, snapshots) = watch::channel(Arc::new(first));
        let node = introduction.node.clone();
        self.streams.insert(stream, Stream { introduction, proxy, snapshots: Arc::new(sender) });
        Ok((Opened { stream, node, snapshots }, self.touch(touched)))
    }

    /// The Node of an open stream changed: it became ready or not, or moved. Returns whether the endpoints are others now.
    pub(super) fn node_changed(&mut self, stream: u64, node: &Node) -> Result<bool, Status> {
        let Some(trust_domain) = self.mesh.as_ref().map(|mesh| mesh.intent().mesh.trust_domain.clone()) else {
            return Ok(false);
        };
        let Some(known) = self.streams.get(&stream) else { return Ok(false) };
        let introduction = introduce(Some(known.introduction.identity.clone()), node, &trust_domain)?;
        if introduction.node != known.introduction.node {
            return Err(Status::invalid_argument("Node.id must not change within a stream"));
        }
        let proxy = proxy_of(&introduction);
        let moved = proxy != known.proxy;
        self.tracker.facts(&introduction.node, stream, introduction.facts());
        let touched = self.register(&introduction);
        if moved {
            self.dirty.streams.insert(stream);
        }
        if let Some(known) = self.streams.get_mut(&stream) {
            (known.introduction, known.proxy) = (introduction, proxy);
        }
        Ok(self.touch(touched))
    }

    /// The stream ended; its endpoint stays for the grace period. If the node has another stream, that one speaks for it from now on.
    /// `None` if it had ended before.
    pub(super) fn closed(&mut self, stream: u64, now: Now) -> Option<Left> {
        let node = self.streams.remove(&stream)?.introduction.node;
        if !self.tracker.closed(&node, stream, now) {
            return Some(Left::Nothing);
        }
        let of_node = self.streams.iter().rev().find(|(_, other)| other.introduction.node == node);
        let Some((heir, introduction)) = of_node.map(|(id, other)| (*id, other.introduction.clone())) else {
            self.registry.lost(&node, now.instant);
            return Some(Left::Nothing);
        };
        self.tracker.opened(&node, heir, introduction.facts(), now);
        let touched = self.register(&introduction);
        self.dirty.streams.insert(heir); // what it has settled is told again
        Some(Left::Heir { endpoints_changed: self.touch(touched) })
    }

    fn register(&mut self, introduction: &Introduction) -> Touched {
        match &introduction.kind {
            NodeKind::Agent(agent) if agent.ready => {
                let registration = Registration {
                    service: introduction.service.clone(),
                    address: agent.address(),
                    labels: agent.labels.clone(),
                };
                self.registry.register(&introduction.node, registration)
            }
            _ => self.registry.remove(&introduction.node),
        }
    }
}
