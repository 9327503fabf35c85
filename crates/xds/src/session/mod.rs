//! One xDS stream as a state machine: requests, snapshots and answers go in, responses come out. No I/O and no clock.
//!
//! [`DeltaSession`] and [`SotwSession`] translate their messages; what is common is here: subscriptions, one outstanding response a
//! type, nonces, only what changed, and the make-before-break order across types. A session never queues: when the client is slow, the
//! next response is made from the newest snapshot.

mod delta;
mod order;
mod sotw;
#[cfg(test)]
mod tests;
mod track;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::google::rpc;
use tonic::Status;

pub use delta::DeltaSession;
pub use sotw::SotwSession;

use crate::resource::cut;
use crate::type_url::{self, CLUSTER, ENDPOINT, LISTENER, REVISION, ROUTE};
use crate::{Nack, Snapshot};
use track::{Batch, Outstanding, Track};

/// The most names that one stream may follow of one type.
const MAX_NAMES: usize = 65_536;
/// The longest name, in bytes.
const MAX_NAME: usize = 4_096;
/// The most that is kept of a client's reason for a refusal, in bytes.
const MAX_REASON: usize = 4_096;
/// How much goes into one delta response; the rest follows when it is acknowledged. Below gRPC's default limit of 4 MiB.
const MAX_RESPONSE: usize = 2 * 1024 * 1024;

/// What a request meant, beside its subscriptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A response was accepted.
    Ack {
        /// What type.
        type_url: &'static str,
        /// The revision that it was made from.
        revision: Arc<str>,
        /// What the client has refused before, and this did not mend.
        still_refused: Vec<Arc<str>>,
    },
    /// A response was refused.
    Nack(Nack),
    /// The client asked for a type that Weft does not have; it gets no answer, as xDS has none for that.
    UnknownType(String),
}

/// Which of the two protocols a session speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Variant {
    Delta,
    Sotw,
}

/// The common part of both sessions.
struct Session {
    variant: Variant,
    snapshot: Arc<Snapshot>,
    /// The types that the client has asked for at least once.
    tracks: BTreeMap<&'static str, Track>,
    last_nonce: u64,
    /// The client may not have sent all its first requests yet. See [`Session::holding`].
    opening: bool,
    /// The client will send nothing any more, so no answer is waited for.
    last_words: bool,
    /// Clusters that were sent and whose endpoints the client is about to ask for.
    expected: BTreeSet<Arc<str>>,
    /// Whether the current snapshot has been reported as settled.
    reported: bool,
}

impl Session {
    fn new(variant: Variant, snapshot: Arc<Snapshot>) -> Self {
        let (tracks, expected) = Default::default();
        Self { variant, snapshot, tracks, last_nonce: 0, opening: true, last_words: false, expected, reported: false }
    }

    fn on_snapshot(&mut self, snapshot: Arc<Snapshot>) {
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
    fn answer(&mut self, type_url: &'static str, nonce: &str, error: Option<rpc::Status>) -> Option<Event> {
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
    fn check_expected(&mut self) {
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

    /// The next thing to send, already counted as sent, with the revision and nonce that it goes out under.
    fn next(&mut self) -> Option<(&'static str, String, Batch)> {
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
        Some((type_url, nonce, batch))
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
    fn settled(&mut self) -> Option<Arc<Snapshot>> {
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
    fn holding(&self) -> bool {
        self.opening || !self.expected.is_empty()
    }

    fn stop_holding(&mut self) {
        self.opening = false;
        self.expected.clear();
    }

    /// What was asked for is still answered, in order; whether the client accepts it will not be known.
    fn no_more_requests(&mut self) {
        self.last_words = true;
        self.stop_holding();
    }
}

/// The track's type, or what to say about a request whose type is missing or unknown.
fn known_type(type_url: &str) -> Result<Result<&'static str, Event>, Status> {
    if type_url.is_empty() {
        return Err(Status::invalid_argument("the request has no type_url"));
    }
    Ok(type_url::intern(type_url).ok_or_else(|| Event::UnknownType(type_url.chars().take(200).collect())))
}

fn check_name(name: &str) -> Result<(), Status> {
    if name.len() > MAX_NAME {
        return Err(Status::invalid_argument(format!(
            "a resource name has {} bytes; at most {MAX_NAME} are allowed",
            name.len()
        )));
    }
    Ok(())
}

fn check_count(type_url: &str, count: usize) -> Result<(), Status> {
    if count > MAX_NAMES {
        let short = type_url::short(type_url);
        return Err(Status::resource_exhausted(format!(
            "{count} names of {short} are too many; at most {MAX_NAMES} are allowed"
        )));
    }
    Ok(())
}
