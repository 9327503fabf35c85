//! What is known of the local Envoy: its streams, what it has answered, and what it may still refuse. Time is passed in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;

use crate::type_url::{CLUSTER, ENDPOINT, LISTENER, ROUTE};
use crate::{Nack, Rejection, Resource, Snapshot};

/// What Envoy is fed with; other types are for the agent itself.
pub(super) const RELAYED: [&str; 4] = [CLUSTER, ENDPOINT, LISTENER, ROUTE];

/// What is known of the local Envoy.
pub(super) struct Envoy {
    /// The open streams; the newest speaks for Envoy (two are open while it restarts itself).
    streams: BTreeSet<u64>,
    opened: u64,
    /// When the last stream ended, or the relay began.
    absent_since: Instant,
    /// The newest snapshot, by serial, that Envoy needs nothing more for.
    pub(super) settled: u64,
    accepted: BTreeMap<&'static str, u64>,
    refused: BTreeMap<&'static str, u64>,
    /// What Envoy has not answered for.
    open: BTreeMap<Key, Open>,
    /// What it refused and is not taken back yet.
    pub(super) refusals: Vec<Refusal>,
    /// Versions that were refused late, and the reason, while this Envoy is there.
    pub(super) told_late: BTreeMap<Key, (Arc<str>, String)>,
    /// What was told to be refused and stays on offer, because an earlier Envoy ran on it.
    stays: BTreeMap<Key, Arc<Resource>>,
    /// What of that an Envoy has accepted after all.
    pub(super) accepted_after_all: Vec<(Key, Arc<Resource>)>,
}

pub(super) type Key = (&'static str, Arc<str>);

/// A version of a resource that Envoy has been given, and may still refuse.
#[derive(Clone)]
pub(super) struct Open {
    /// The first state that has this version.
    serial: u64,
    pub(super) version: Arc<str>,
    /// What it is given if it refuses: the last that was accepted, if any. That is this version itself if an earlier Envoy ran on it:
    /// it stays on offer, for the next one.
    pub(super) before: Option<Arc<Resource>>,
}

/// A version that Envoy refused.
pub(super) struct Refusal {
    pub(super) key: Key,
    pub(super) open: Open,
    pub(super) reason: String,
}

impl Envoy {
    /// There is none yet.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            streams: BTreeSet::new(),
            opened: 0,
            absent_since: now,
            settled: 0,
            accepted: BTreeMap::new(),
            refused: BTreeMap::new(),
            open: BTreeMap::new(),
            refusals: Vec::new(),
            told_late: BTreeMap::new(),
            stays: BTreeMap::new(),
            accepted_after_all: Vec::new(),
        }
    }

    /// A stream begins, of an Envoy that is `given` this; returns the stream's number.
    pub(super) fn connects(&mut self, given: &Snapshot) -> u64 {
        self.opened += 1;
        self.streams.insert(self.opened);
        // A new Envoy has refused nothing yet, and may refuse everything, whatever an earlier one did.
        self.refused.clear();
        self.told_late.clear();
        for type_url in RELAYED {
            for resource in given.get(type_url).values() {
                let (serial, version) = (given.serial, resource.version.clone());
                let open = || Open { serial, version, before: Some(resource.clone()) };
                self.open.entry((type_url, resource.name.clone())).or_insert_with(open);
            }
        }
        self.opened
    }

    /// A stream is over.
    pub(super) fn leaves(&mut self, stream: u64, now: Instant) {
        self.streams.remove(&stream);
        if self.streams.is_empty() {
            self.absent_since = now;
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        !self.streams.is_empty()
    }

    /// Whether this stream is the newest.
    pub(super) fn speaks(&self, stream: u64) -> bool {
        self.streams.last() == Some(&stream)
    }

    /// Since when there is none; `None` while there is.
    pub(super) fn absent_since(&self) -> Option<Instant> {
        self.streams.is_empty().then_some(self.absent_since)
    }

    /// Whether it has said what it thinks of this type in a state, or of something newer.
    pub(super) fn has_answered(&self, type_url: &str, serial: u64) -> bool {
        let answered = [self.refused.get(type_url), self.accepted.get(type_url), Some(&self.settled)];
        answered.into_iter().flatten().any(|answered| *answered >= serial)
    }

    /// Envoy is about to be given this version instead of `before`.
    pub(super) fn opens(
        &mut self,
        serial: u64,
        type_url: &'static str,
        resource: &Resource,
        before: Option<&Arc<Resource>>,
    ) {
        let key = (type_url, resource.name.clone());
        let known = self.open.get(&key);
        let newest = known.map(|open| &open.version).or(before.map(|before| &before.version));
        if newest == Some(&resource.version) {
            return;
        }
        let before = known.map_or(before, |open| open.before.as_ref()).cloned();
        self.stays.remove(&key);
        self.open.insert(key, Open { serial, version: resource.version.clone(), before });
    }

    /// A resource is taken from Envoy.
    pub(super) fn loses(&mut self, type_url: &'static str, name: &Arc<str>) {
        let key = (type_url, name.clone());
        self.open.remove(&key);
        self.told_late.remove(&key);
        self.stays.remove(&key);
    }

    /// Envoy has accepted a response that was made from the state `serial`.
    pub(super) fn accepts(&mut self, serial: u64, type_url: &'static str) {
        for key in self.closes(type_url, serial) {
            self.accepted_after_all.extend(self.stays.remove(&key).map(|resource| (key, resource)));
        }
        self.accepted.insert(type_url, serial);
    }

    /// Envoy has answered for all that it was given of this type up to a state.
    fn closes(&mut self, type_url: &'static str, serial: u64) -> Vec<Key> {
        let closed = self.open.extract_if(.., |key, open| key.0 == type_url && open.serial <= serial);
        closed.map(|(key, _)| key).collect()
    }

    /// Upstream is about to be told of a refusal.
    pub(super) fn is_told(&mut self, Refusal { key, open: Open { version, before, .. }, reason }: Refusal) {
        if let Some(before) = before.filter(|before| before.version == version) {
            self.stays.insert(key.clone(), before);
        }
        self.told_late.insert(key, (version, reason));
    }

    /// Envoy has refused a response that was made from the state `serial`.
    pub(super) fn refuses(&mut self, serial: u64, nack: &Nack) {
        let type_url = nack.type_url;
        let refusal = |Rejection { name, reason }: Rejection| {
            let key = (type_url, name);
            let open = self.open.get(&key).filter(|open| open.serial <= serial)?.clone();
            Some(Refusal { key, open, reason })
        };
        let mut refusals: Vec<Refusal> = nack.blamed().into_iter().filter_map(&refusal).collect();
        if refusals.is_empty() {
            // It names nothing that is new, so all of that is to blame.
            let all = nack.resources.iter().map(|name| Rejection { name: name.clone(), reason: nack.reason.clone() });
            refusals = all.filter_map(refusal).collect();
        }
        self.refusals.append(&mut refusals);
        self.closes(type_url, serial);
        self.refused.insert(type_url, serial);
    }
}
