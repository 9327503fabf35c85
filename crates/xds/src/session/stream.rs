//! What both protocols have in common: subscriptions, one outstanding response a type, nonces, only what changed, and the
//! make-before-break order across types.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::google::rpc;

use super::event::Event;
use super::order;
use super::track::{Batch, Outstanding, Track};
use crate::resource::cut;
use crate::type_url::{self, CLUSTER, ENDPOINT, LISTENER, REVISION, ROUTE};
use crate::{Nack, Snapshot};

/// The most that is kept of a client's reason for a refusal, in bytes.
const MAX_REASON: usize = 4_096;
/// How much goes into one delta response; the rest follows when it is acknowledged. Below gRPC's default limit of 4 MiB.
const MAX_RESPONSE: usize = 2 * 1024 * 1024;

/// Which of the two protocols a session speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Incremental.
    Delta,
    /// State of the world.
    Sotw,
}

/// A response that has been counted as sent: what goes into it.
pub struct Sending {
    pub(super) type_url: &'static str,
    pub(super) nonce: String,
    pub(super) batch: Batch,
}

/// One stream, in either protocol.
pub struct Stream {
    variant: Variant,
    pub(super) snapshot: Arc<Snapshot>,
    /// The types that the client has asked for at least once.
    pub(super) tracks: BTreeMap<&'static str, Track>,
    last_nonce: u64,
    /// The client may not have sent all its first requests yet. See [`Stream::holding`].
    opening: bool,
    /// The client will send nothing any more, so no answer is waited for.
    last_words: bool,
    /// Clusters that were sent and whose endpoints the client is about to ask for.
    expected: BTreeSet<Arc<str>>,
    /// Whether the current snapshot has been reported as settled.
    reported: bool,
}

impl Stream {
    pub(super) fn new(variant: Variant, snapshot: Arc<Snapshot>) -> Self {
        let (tracks, expected) = Default::default();
        Self { variant, snapshot, tracks, last_nonce: 0, opening: true, last_words: false, expected, reported: false }
    }

    pub(super) fn on_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        for (type_url, track) in &mut self.tracks {
            if !snapshot.same_map(&self.snapshot, type_url) {
                track.touch();
            }
        }
        self.snapshot = snapshot;
        self.reported = false;
        self.check_expected();
    }

    /// The answer to the outstanding response, if the nonce is its own; any other nonce answers nothing.
    pub(super) fn answer(&mut self, type_url: &'static str, nonce: &str, error: Option<rpc::Status>) -> Option<Event> {
        let track = self.tracks.get_mut(type_url)?;
        let Outstanding { revision, names, .. } =
            track.outstanding.take_if(|outstanding| outstanding.nonce == nonce)?;
        let whole = self.variant == Variant::Sotw && order::full_state(type_url);
        track.answered(&names, whole, error.is_some());
        let Some(error) = error else {
            let still_refused = track.refused_names().cloned().collect();
            return Some(Event::Ack { type_url, revision, still_refused });
        };
        if type_url == CLUSTER {
            self.expected.clear();
        }
        let reason = cut(&error.message, MAX_REASON).to_owned();
        Some(Event::Nack(Nack { type_url, revision, resources: names, reason }))
    }

    /// Forgets the clusters whose endpoints need not be waited for any more.
    pub(super) fn check_expected(&mut self) {
        if self.expected.is_empty() {
            return;
        }
        let available = self.snapshot.get(ENDPOINT);
        let (clusters, endpoints) = (self.tracks.get(CLUSTER), self.tracks.get(ENDPOINT));
        self.expected.retain(|name| {
            available.contains_key(name)
                && clusters.is_some_and(|track| track.has(name))
                && !endpoints.is_some_and(|track| track.follows(name))
        });
    }

    fn replan(&mut self) {
        for (type_url, track) in &mut self.tracks {
            let says_no = self.variant == Variant::Delta || order::full_state(type_url);
            track.replan(self.snapshot.get(type_url), says_no, self.snapshot.is_partial(type_url));
        }
    }

    /// Whether nothing of this type is unanswered or waits to be sent. Removals that must wait for other types do not count.
    fn clean(&self, type_url: &str) -> bool {
        self.tracks.get(type_url).is_none_or(|track| {
            let pending = track.has_changes() || (track.has_removals() && self.may_remove(type_url));
            !self.is_awaited(track) && !pending
        })
    }

    fn may_change(&self, type_url: &str) -> bool {
        let refers = matches!(type_url, LISTENER | ROUTE | REVISION);
        (!refers || self.expected.is_empty()) && order::before_change(type_url).iter().all(|before| self.clean(before))
    }

    fn may_remove(&self, type_url: &str) -> bool {
        let referred_to = matches!(type_url, CLUSTER | ENDPOINT);
        let users_unknown = !self.tracks.contains_key(LISTENER) || !self.tracks.contains_key(ROUTE);
        if referred_to && self.opening && users_unknown {
            return false;
        }
        let refused = |url: &str| self.tracks.get(url).is_some_and(|track| track.refused());
        let clusters_first = type_url == ENDPOINT && self.tracks.get(CLUSTER).is_some_and(|track| track.has_removals());
        !clusters_first && order::before_removal(type_url).iter().all(|before| self.clean(before) && !refused(before))
    }

    /// The next thing to send, already counted as sent.
    pub(super) fn next(&mut self) -> Option<Sending> {
        self.replan();
        let type_url = type_url::ALL.into_iter().find(|type_url| self.is_ready(type_url))?;
        let removals = self.may_remove(type_url);
        let limit = if self.variant == Variant::Delta { MAX_RESPONSE } else { usize::MAX };
        let track = self.tracks.get_mut(type_url)?;
        let batch = track.take(removals, limit);
        self.last_nonce += 1;
        let nonce = self.last_nonce.to_string();
        let names = batch.changes.iter().map(|resource| &resource.name).chain(&batch.removed).cloned().collect();
        track.outstanding = Some(Outstanding { nonce: nonce.clone(), revision: self.snapshot.revision.clone(), names });
        self.reported = false;
        if type_url == CLUSTER && !self.last_words {
            self.endpoints_follow(&batch);
        }
        Some(Sending { type_url, nonce, batch })
    }

    fn is_ready(&self, type_url: &str) -> bool {
        self.tracks.get(type_url).is_some_and(|track| {
            let pending = track.has_changes() || (track.has_removals() && self.may_remove(type_url));
            pending && !self.is_awaited(track) && self.may_change(type_url)
        })
    }

    /// Whether a response of this type is unanswered, and the answer can still come.
    fn is_awaited(&self, track: &Track) -> bool {
        track.outstanding.is_some() && !self.last_words
    }

    /// A client that rebuilds a cluster waits for its endpoints again, even if they are the same (xDS protocol, "Resource warming"). A
    /// client that has just met a cluster will ask for its endpoints, and routes had better not refer to it before it has them.
    fn endpoints_follow(&mut self, batch: &Batch) {
        let available = self.snapshot.get(ENDPOINT);
        for cluster in batch.changes.iter().filter(|cluster| available.contains_key(&cluster.name)) {
            match self.tracks.get_mut(ENDPOINT) {
                Some(endpoints) if endpoints.follows(&cluster.name) => endpoints.repeat(&cluster.name),
                _ => {
                    self.expected.insert(cluster.name.clone());
                }
            }
        }
    }

    /// The current snapshot, once, when everything that the client follows has been answered for it.
    pub(super) fn settled(&mut self) -> Option<Arc<Snapshot>> {
        if self.last_words
            || self.reported
            || self.tracks.is_empty()
            || (self.opening && !self.tracks.contains_key(LISTENER))
        {
            return None;
        }
        self.replan();
        if !self.expected.is_empty() || !self.tracks.keys().all(|type_url| self.clean(type_url)) {
            return None;
        }
        self.reported = true;
        Some(self.snapshot.clone())
    }

    /// Whether something waits only for requests that the client is likely to send soon: the rest of its first requests (before a
    /// removal, because a listener or route that it has may need the cluster), or one for the endpoints of a new cluster.
    pub(super) fn holding(&self) -> bool {
        self.opening || !self.expected.is_empty()
    }

    pub(super) fn stop_holding(&mut self) {
        self.opening = false;
        self.expected.clear();
    }

    /// What was asked for is still answered, in order; whether the client accepts it will not be known.
    pub(super) fn no_more_requests(&mut self) {
        self.last_words = true;
        self.stop_holding();
    }
}
