//! What a server must know to serve a stream: who may open it, what it is sent, and who is told how it goes.

use std::sync::Arc;
use std::time::SystemTime;

use envoy_types::pb::envoy::config::core::v3::Node;
use tokio::sync::watch;
use tonic::Status;
use weft_model::SpiffeId;

use crate::{Rejection, Snapshot};

/// The other end of a connection, put into each request's extensions by the acceptor (as tonic's `Connected::ConnectInfo`).
#[derive(Clone, Debug, Default)]
pub struct ConnectPeer {
    /// The verified SPIFFE ID of the peer's certificate; `None` without a client certificate or on a Unix socket.
    pub id: Option<SpiffeId>,
    /// The serial number of that certificate, upper-case hexadecimal; empty without one.
    pub serial: String,
    /// The end of that certificate's life, which a connection may outlive.
    pub expires: Option<SystemTime>,
    /// The machine that the certificate was issued to, if it says so.
    pub machine: Option<String>,
    /// What only the two ends of this TLS connection know; `None` on a Unix socket.
    pub binding: Option<[u8; 32]>,
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
    /// The client accepted a response that was made from `revision`. It may have refused other resources of the type before, of which it
    /// still runs on something older, or on nothing.
    fn ack(&mut self, _type_url: &'static str, _revision: &str, _still_refused: &[Arc<str>]) {}
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

impl Nack {
    /// Which resources of the refused response the client complains about, each with its part of the text. Weft's own proxies name all
    /// (`a: reason; b: reason`), Envoy does for several (`Error adding/updating cluster(s) a: reason, b: reason`). Where no name can
    /// be found, all are.
    pub fn blamed(&self) -> Vec<Rejection> {
        let mut places: Vec<(usize, usize, &Arc<str>)> = Vec::new();
        for name in &self.resources {
            let mark = format!("{name}: ");
            let starts_a_word = |at: &usize| *at == 0 || self.reason[..*at].ends_with([' ', '\n', ',', '(']);
            let found = self.reason.match_indices(&mark).map(|(at, _)| at).find(starts_a_word);
            places.extend(found.map(|at| (at, at + mark.len(), name)));
        }
        places.sort_unstable();
        if places.is_empty() {
            let all = self.resources.iter().cloned();
            return all.map(|name| Rejection { name, reason: self.reason.trim().to_owned() }).collect();
        }
        let ends = places.iter().skip(1).map(|place| place.0).chain([self.reason.len()]);
        let part = |((_, from, name), to): (&(usize, usize, &Arc<str>), usize)| {
            let reason = self.reason.get(*from..to).unwrap_or(&self.reason);
            Rejection { name: (*name).clone(), reason: reason.trim_end_matches([' ', ',', ';', '\n']).to_owned() }
        };
        places.iter().zip(ends).map(part).collect()
    }
}

#[cfg(test)]
mod tests;
