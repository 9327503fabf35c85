//! What is known of the local Envoy: its streams, what it has answered, and what it may still refuse. Time is passed in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;

use crate::{Nack, Rejection, Resource};

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
    /// Versions that were refused late, and the reason, until they come again.
    pub(super) told_late: BTreeMap<Key, (Arc<str>, String)>,
}

pub(super) type Key = (&'static str, Arc<str>);

/// A version of a resource that Envoy has been given, and may still refuse.
#[derive(Clone)]
pub(super) struct Open {
    /// The first state that has this version.
    serial: u64,
    pub(super) version: Arc<str>,
    /// The last that Envoy has accepted, if any.
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
        }
    }

    /// A stream begins; returns its number.
    pub(super) fn connects(&mut self) -> u64 {
        self.opened += 1;
        self.streams.insert(self.opened);
        // A new Envoy has refused nothing yet.
        self.refused.clear();
        self.told_late.clear();
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
        self.open.insert(key, Open { serial, version: resource.version.clone(), before });
    }

    /// A resource is taken from Envoy.
    pub(super) fn loses(&mut self, type_url: &'static str, name: &Arc<str>) {
        self.open.remove(&(type_url, name.clone()));
    }

    /// Envoy has accepted a response that was made from the state `serial`.
    pub(super) fn accepts(&mut self, serial: u64, type_url: &'static str) {
        self.closes(type_url, serial);
        self.accepted.insert(type_url, serial);
    }

    /// Envoy has answered for all that it was given of this type up to a state.
    fn closes(&mut self, type_url: &'static str, serial: u64) {
        self.open.retain(|key, open| key.0 != type_url || open.serial > serial);
    }

    /// Envoy has refused a response that was made from the state `serial`.
    pub(super) fn refuses(&mut self, serial: u64, nack: &Nack) {
        let type_url = nack.type_url;
        let refusal = |Rejection { name, reason }: Rejection| {
            let key = (type_url, name);
            let open = self.open.get(&key).filter(|open| open.serial <= serial)?.clone();
            Some(Refusal { key, open, reason })
        };
        let mut refusals: Vec<Refusal> = blame(nack).into_iter().filter_map(&refusal).collect();
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

/// Which resources of a refused response Envoy complains about, each with its part of the text. Envoy writes
/// `Error adding/updating cluster(s) a: reason, b: reason` for several, and only a reason for one. Where no name can be found, all are.
fn blame(nack: &Nack) -> Vec<Rejection> {
    let mut places: Vec<(usize, usize, &Arc<str>)> = Vec::new();
    for name in &nack.resources {
        let mark = format!("{name}: ");
        let starts_a_word = |at: &usize| *at == 0 || nack.reason[..*at].ends_with([' ', '\n', ',', '(']);
        let found = nack.reason.match_indices(&mark).map(|(at, _)| at).find(starts_a_word);
        places.extend(found.map(|at| (at, at + mark.len(), name)));
    }
    places.sort_unstable();
    if places.is_empty() {
        let all = nack.resources.iter().cloned();
        return all.map(|name| Rejection { name, reason: nack.reason.trim().to_owned() }).collect();
    }
    let ends = places.iter().skip(1).map(|place| place.0).chain([nack.reason.len()]);
    let part = |((_, from, name), to): (&(usize, usize, &Arc<str>), usize)| {
        let reason = nack.reason.get(*from..to).unwrap_or(&nack.reason);
        Rejection { name: (*name).clone(), reason: reason.trim_end_matches([' ', ',', '\n']).to_owned() }
    };
    places.iter().zip(ends).map(part).collect()
}

#[cfg(test)]
mod tests;
