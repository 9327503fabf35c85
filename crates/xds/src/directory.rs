//! What a server must know to serve a stream: who may open it, what it is sent, and who is told how it goes.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node;
use tokio::sync::watch;
use tonic::Status;
use weft_model::SpiffeId;

use crate::Snapshot;

/// The other end of a connection, put into each request's extensions by the acceptor (as tonic's `Connected::ConnectInfo`).
#[derive(Clone, Debug, Default)]
pub struct ConnectPeer {
    /// The verified SPIFFE ID of the peer's certificate; `None` without a client certificate or on a Unix socket.
    pub id: Option<SpiffeId>,
}

/// Decides who is served what.
#[tonic::async_trait]
pub trait Directory: Send + Sync + 'static {
    /// Authorises the first `Node` of a stream.
    ///
    /// # Errors
    /// The gRPC status that closes the stream; `PERMISSION_DENIED` with a clear text where the peer may not be this node.
    async fn open(&self, peer: Option<SpiffeId>, node: &Node) -> Result<Subscription, Status>;
}

/// What one stream follows.
pub struct Subscription {
    /// The newest state; intermediate ones may be skipped by a slow client. Closing the sender ends the stream.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Who is told what the client does with it.
    pub observer: Box<dyn Observer>,
}

/// Is told how one stream goes. Calls come from one task, in order, and must not block.
pub trait Observer: Send {
    /// A later request carried a `Node` that differs from the last one (readiness or labels changed).
    ///
    /// # Errors
    /// The status that closes the stream, when the new `Node` claims what the peer may not be.
    fn node(&mut self, _node: &Node) -> Result<(), Status> {
        Ok(())
    }
    /// A response with `count` resources (and removals) of `bytes` encoded bytes was handed to the transport.
    fn sent(&mut self, _type_url: &'static str, _count: usize, _bytes: usize) {}
    /// The client accepted a response that was made from `revision`.
    fn ack(&mut self, _type_url: &'static str, _revision: &str) {}
    /// The client refused a response. What it had before stays in force.
    fn nack(&mut self, _nack: &Nack) {}
    /// Every type that the client follows has been answered (accepted or refused) for `revision`, or has no change in it. May come
    /// again for the same revision, after a change that no commit made or a new subscription.
    fn settled(&mut self, _revision: &str) {}
    /// The same with the whole state, for observers that tell states of one revision apart by [`Snapshot::serial`].
    fn settled_snapshot(&mut self, snapshot: &Arc<Snapshot>) {
        self.settled(&snapshot.revision);
    }
    /// The stream is over, for whatever reason; nothing follows.
    fn closed(&mut self) {}
}

/// An observer that does nothing.
impl Observer for () {}

/// A refusal by a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    /// What type was refused.
    pub type_url: &'static str,
    /// The revision that the refused response was made from.
    pub revision: Arc<str>,
    /// The resources in the refused response; the reason says which of them is at fault.
    pub resources: Vec<Arc<str>>,
    /// The client's own words, at most 4 KiB.
    pub reason: String,
}
