//! One proxy: what it says of itself, what it was sent and what it answered. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use weft_model::{ServiceName, SpiffeId};

use super::now::Now;
use crate::status::{ProxyStatus, Refusal, Unanswered, unix_seconds};

/// What a proxy says of itself in its Node.
#[derive(Clone, Debug)]
pub struct ProxyFacts {
    /// The service that it acts for.
    pub service: ServiceName,
    /// The SPIFFE ID of its certificate.
    pub identity: SpiffeId,
    /// `weft`, `envoy` or `grpc`.
    pub data_plane: Arc<str>,
    /// Its labels.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// Where it takes calls; `None` for a client only.
    pub ingress: Option<SocketAddr>,
    /// Whether it wants to be called.
    pub ready: bool,
    /// When its certificate expires, as it reports.
    pub certificate_expires: Option<u64>,
}

/// One proxy, by the stream that speaks for it.
#[derive(Debug)]
pub(super) struct ProxyState {
    pub(super) facts: ProxyFacts,
    /// The stream that speaks for it; a later stream of the same node takes over.
    pub(super) stream: u64,
    pub(super) connected: bool,
    pub(super) since: SystemTime,
    pub(super) lost_at: Option<Instant>,
    pub(super) sent: u64,
    pub(super) settled: u64,
    pub(super) settled_commit: Arc<str>,
    pub(super) refusals: BTreeMap<&'static str, Refusal>,
    /// Types of which a response has been sent and not answered, and since when.
    pub(super) unanswered: BTreeMap<&'static str, SystemTime>,
    /// It has said goodbye: nobody is surprised when its stream ends.
    pub(super) leaving: bool,
    pub(super) last_sent: Option<SystemTime>,
    pub(super) resources_sent: u64,
    pub(super) bytes_sent: u64,
}

impl ProxyState {
    /// A stream that has just been opened.
    pub(super) fn opened(facts: ProxyFacts, stream: u64, now: Now) -> Self {
        Self {
            facts,
            stream,
            connected: true,
            since: now.wall,
            lost_at: None,
            sent: 0,
            settled: 0,
            settled_commit: "".into(),
            refusals: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            leaving: false,
            last_sent: None,
            resources_sent: 0,
            bytes_sent: 0,
        }
    }

    /// Whether it has not answered everything that `generation` changed for it.
    pub(super) fn owes(&self, generation: u64) -> bool {
        self.was_told(generation) && self.settled < generation
    }

    /// Whether it was sent `generation` or a later one.
    pub(super) fn was_told(&self, generation: u64) -> bool {
        self.connected && self.sent >= generation
    }

    /// A response of a type was accepted. Returns whether the last refusal went with it.
    pub(super) fn acked(&mut self, type_url: &str, still_refused: &[Arc<str>]) -> bool {
        self.unanswered.remove(type_url);
        let Some(refusal) = self.refusals.get_mut(type_url) else { return false };
        refusal.resources.retain(|name| still_refused.iter().any(|still| **still == **name));
        if !refusal.resources.is_empty() {
            return false;
        }
        self.refusals.remove(type_url);
        self.refusals.is_empty()
    }

    /// A response that `carried` these resources was refused. What was refused before and was not in it is refused still.
    pub(super) fn nacked(&mut self, type_url: &'static str, mut refusal: Refusal, carried: &[Arc<str>]) {
        self.unanswered.remove(type_url);
        let before = self.refusals.remove(type_url).map(|before| before.resources).unwrap_or_default();
        let elsewhere = before.into_iter().filter(|name| !carried.iter().any(|carried| **carried == **name));
        refusal.resources.extend(elsewhere);
        self.refusals.insert(type_url, refusal);
    }

    /// What it was sent and has not answered.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = Unanswered> {
        let one = |(type_url, since): (&&'static str, &SystemTime)| Unanswered {
            kind: weft_xds::type_url::short(type_url).to_owned(),
            since: unix_seconds(*since),
        };
        self.unanswered.iter().map(one)
    }

    /// As it is shown: see [`ProxyStatus::state`].
    pub(super) fn state(&self) -> &'static str {
        match () {
            () if !self.connected => "lost",
            () if !self.refusals.is_empty() => "refused",
            () if self.settled < self.sent || self.sent == 0 => "pending",
            () => "acknowledged",
        }
    }

    pub(super) fn status(&self, node: &str) -> ProxyStatus {
        let facts = &self.facts;
        ProxyStatus {
            node: node.to_owned(),
            service: facts.service.to_string(),
            identity: facts.identity.to_string(),
            certificate_expires: facts.certificate_expires,
            cause: None,
            data_plane: facts.data_plane.to_string(),
            labels: facts.labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
            ingress: facts.ingress.map(|address| address.to_string()),
            ready: facts.ready,
            connected: self.connected,
            since: unix_seconds(self.since),
            commit: self.settled_commit.to_string(),
            state: self.state().to_owned(),
            refusals: self.refusals.values().cloned().collect(),
            unanswered: self.unanswered().collect(),
            last_sent: self.last_sent.map(unix_seconds),
            resources_sent: self.resources_sent,
            bytes_sent: self.bytes_sent,
        }
    }
}
