//! Who runs what: the state of every proxy and the way of every commit through the mesh.
//!
//! Pure: time is passed in, no I/O. A *generation* counts what was published (a commit or a change of endpoints); a proxy that
//! has settled generation 7 has answered, with ACK or NACK, everything that 7 changed for it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use weft_model::{ServiceName, SpiffeId};

use crate::status::{
    ChangeState, ChangeStatus, FindingStatus, ProxyCounts, ProxyStatus, Refusal, Unanswered, Waiting, unix_seconds,
};

const HISTORY: usize = 50;

/// A moment on both clocks: one to count with, one to show.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic.
    pub instant: Instant,
    /// For people.
    pub wall: SystemTime,
}

impl Now {
    /// The present.
    pub fn read() -> Self {
        Self { instant: Instant::now(), wall: SystemTime::now() }
    }
}

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

#[derive(Debug)]
struct ProxyState {
    facts: ProxyFacts,
    /// The stream that speaks for it; a later stream of the same node takes over.
    stream: u64,
    connected: bool,
    since: SystemTime,
    lost_at: Option<Instant>,
    sent: u64,
    settled: u64,
    settled_commit: Arc<str>,
    refusals: BTreeMap<&'static str, Refusal>,
    /// Types of which a response has been sent and not answered, and since when.
    unanswered: BTreeMap<&'static str, SystemTime>,
    /// It has said goodbye: nobody is surprised when its stream ends.
    leaving: bool,
    last_sent: Option<SystemTime>,
    resources_sent: u64,
    bytes_sent: u64,
}

/// One published or refused commit.
#[derive(Debug)]
struct Change {
    commit: Arc<str>,
    subject: String,
    published_at: SystemTime,
    at: Instant,
    generation: u64,
    compile: Duration,
    converged: Option<Duration>,
    waiting: BTreeSet<Arc<str>>,
    acknowledged: BTreeSet<Arc<str>>,
    refused: BTreeSet<Arc<str>>,
    findings: Vec<FindingStatus>,
    accepted: bool,
}

/// What settling meant, for the metrics.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// From publishing to this proxy's answer.
    pub took: Option<Duration>,
    /// The commits that every connected proxy has settled by this.
    pub converged: Vec<(Arc<str>, Duration)>,
}

/// Proxies and changes.
#[derive(Debug, Default)]
pub struct Tracker {
    proxies: BTreeMap<Arc<str>, ProxyState>,
    changes: VecDeque<Change>,
}

impl Tracker {
    /// A stream of `node` was opened. Its first snapshot will be of the newest generation.
    pub fn opened(&mut self, node: &Arc<str>, stream: u64, facts: ProxyFacts, now: Now) {
        let state = ProxyState {
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
        };
        self.proxies.insert(node.clone(), state);
        if let Some(change) = self.changes.iter_mut().find(|change| change.accepted) {
            change.acknowledged.remove(node);
            change.refused.remove(node);
            change.waiting.insert(node.clone());
        }
    }

    /// Its Node changed.
    pub fn facts(&mut self, node: &str, stream: u64, facts: ProxyFacts) {
        if let Some(state) = self.of(node, stream) {
            state.leaving &= !facts.ready;
            state.facts = facts;
        }
    }

    /// The proxy is about to go: the end of its stream will be no loss.
    pub fn leaving(&mut self, node: &str) {
        if let Some(state) = self.proxies.get_mut(node) {
            state.leaving = true;
        }
    }

    /// The stream ended. Returns whether it was the one that spoke for the node.
    pub fn closed(&mut self, node: &str, stream: u64, now: Now) -> bool {
        let Some(state) = self.of(node, stream) else { return false };
        state.connected = false;
        state.since = now.wall;
        state.lost_at = Some(now.instant);
        state.unanswered.clear();
        if state.leaving {
            self.proxies.remove(node);
        }
        for change in &mut self.changes {
            change.waiting.remove(node);
            change.acknowledged.remove(node);
            change.refused.remove(node);
        }
        self.converge(now);
        true
    }

    /// Forgets proxies that have been lost for `grace`.
    pub fn forget(&mut self, now: Instant, grace: Duration) {
        self.proxies.retain(|_, state| state.lost_at.is_none_or(|at| now.saturating_duration_since(at) < grace));
    }

    /// When [`Tracker::forget`] will next have something to do.
    pub fn next_forgotten(&self, grace: Duration) -> Option<Instant> {
        self.proxies.values().filter_map(|state| state.lost_at).min().map(|at| at + grace)
    }

    /// A snapshot was handed to the stream.
    pub fn published(&mut self, node: &str, stream: u64, generation: u64) {
        if let Some(state) = self.of(node, stream) {
            state.sent = generation;
        }
    }

    /// The stream has answered everything up to `generation`.
    pub fn settled(&mut self, node: &Arc<str>, stream: u64, generation: u64, commit: &str, now: Now) -> Settled {
        let Some(state) = self.of(node, stream) else { return Settled::default() };
        state.settled = state.settled.max(generation);
        if &*state.settled_commit != commit {
            state.settled_commit = commit.into();
        }
        let refuses = !state.refusals.is_empty();
        let mut took = None;
        for change in self.changes.iter_mut().filter(|change| change.accepted && change.generation <= generation) {
            if change.waiting.remove(node) {
                took.get_or_insert(now.instant.saturating_duration_since(change.at));
                let list = if refuses { &mut change.refused } else { &mut change.acknowledged };
                list.insert(node.clone());
            }
        }
        Settled { took, converged: self.converge(now) }
    }

    /// A response of a type was accepted: what the proxy refused of that type before no longer holds, but for what is `still_refused`.
    pub fn acked(&mut self, node: &Arc<str>, stream: u64, type_url: &str, still_refused: &[Arc<str>]) {
        let Some(state) = self.of(node, stream) else { return };
        state.unanswered.remove(type_url);
        let Some(refusal) = state.refusals.get_mut(type_url) else { return };
        refusal.resources.retain(|name| still_refused.iter().any(|still| **still == **name));
        if !refusal.resources.is_empty() {
            return;
        }
        state.refusals.remove(type_url);
        if !state.refusals.is_empty() {
            return;
        }
        for change in &mut self.changes {
            if change.refused.remove(node) {
                change.acknowledged.insert(node.clone());
            }
        }
    }

    /// A response that `carried` these resources was refused. What was refused before and was not in it is refused still.
    pub fn nacked(
        &mut self,
        node: &Arc<str>,
        stream: u64,
        type_url: &'static str,
        mut refusal: Refusal,
        carried: &[Arc<str>],
    ) {
        let Some(state) = self.of(node, stream) else { return };
        state.unanswered.remove(type_url);
        let before = state.refusals.remove(type_url).map(|before| before.resources).unwrap_or_default();
        let elsewhere = before.into_iter().filter(|name| !carried.iter().any(|carried| **carried == **name));
        refusal.resources.extend(elsewhere);
        state.refusals.insert(type_url, refusal);
        if let Some(change) = self.changes.iter_mut().find(|change| change.accepted)
            && change.acknowledged.remove(node)
        {
            change.refused.insert(node.clone());
        }
    }

    /// Something was sent.
    pub fn sent(&mut self, node: &str, stream: u64, type_url: &'static str, resources: usize, bytes: usize, now: Now) {
        if let Some(state) = self.of(node, stream) {
            state.unanswered.entry(type_url).or_insert(now.wall);
            state.last_sent = Some(now.wall);
            state.resources_sent += resources as u64;
            state.bytes_sent += bytes as u64;
        }
    }

    /// A commit was accepted and will be published as `generation` to every connected proxy.
    pub fn commit(
        &mut self,
        commit: Arc<str>,
        subject: String,
        generation: u64,
        compile: Duration,
        findings: Vec<FindingStatus>,
        now: Now,
    ) {
        let waiting: BTreeSet<_> =
            self.proxies.iter().filter(|(_, state)| state.connected).map(|(node, _)| node.clone()).collect();
        let converged = waiting.is_empty().then_some(Duration::ZERO);
        self.push(Change {
            commit,
            subject,
            published_at: now.wall,
            at: now.instant,
            generation,
            compile,
            converged,
            waiting,
            acknowledged: BTreeSet::new(),
            refused: BTreeSet::new(),
            findings,
            accepted: true,
        });
    }

    /// A commit was refused by the check.
    pub fn refuse(
        &mut self,
        commit: Arc<str>,
        subject: String,
        findings: Vec<FindingStatus>,
        compile: Duration,
        now: Now,
    ) {
        self.push(Change {
            commit,
            subject,
            published_at: now.wall,
            at: now.instant,
            generation: 0,
            compile,
            converged: None,
            waiting: BTreeSet::new(),
            acknowledged: BTreeSet::new(),
            refused: BTreeSet::new(),
            findings,
            accepted: false,
        });
    }

    /// Whether every stream that was sent `generation` or later, other than `except`, has settled it.
    pub fn waiting_for(&self, generation: u64, except: &str) -> Vec<Arc<str>> {
        let behind = |state: &ProxyState| state.connected && state.sent >= generation && state.settled < generation;
        let nodes = self.proxies.iter().filter(|(node, state)| &***node != except && behind(state));
        nodes.map(|(node, _)| node.clone()).collect()
    }

    /// How many streams were sent `generation` or later, other than `except`.
    pub fn told(&self, generation: u64, except: &str) -> usize {
        self.proxies
            .iter()
            .filter(|(node, state)| &***node != except && state.connected && state.sent >= generation)
            .count()
    }

    /// Counts by state.
    pub fn counts(&self) -> ProxyCounts {
        let mut counts = ProxyCounts::default();
        for state in self.proxies.values() {
            match state.state() {
                "lost" => counts.lost += 1,
                "pending" => counts.pending += 1,
                "refused" => counts.refused += 1,
                _ => counts.acknowledged += 1,
            }
        }
        counts.connected = counts.acknowledged + counts.pending + counts.refused;
        counts
    }

    /// Every proxy, by node id.
    pub fn proxies(&self) -> Vec<ProxyStatus> {
        self.proxies.iter().map(|(node, state)| state.status(node)).collect()
    }

    /// Newest first.
    pub fn history(&self) -> Vec<ChangeStatus> {
        let serving = self.changes.iter().find(|change| change.accepted).map(|change| change.generation);
        self.changes.iter().map(|change| change.status(serving, self.waiting(change))).collect()
    }

    /// What each proxy that a change waits for has not answered, those that are silent longest first.
    fn waiting(&self, change: &Change) -> Vec<Waiting> {
        let of = |node: &Arc<str>| {
            let state = self.proxies.get(node)?;
            let unanswered: Vec<Unanswered> = state.unanswered().collect();
            let published = unix_seconds(state.since.max(change.published_at));
            let since = unanswered.iter().map(|one| one.since).min().unwrap_or(published);
            Some(Waiting { node: node.to_string(), since, unanswered })
        };
        let mut waiting: Vec<Waiting> = change.waiting.iter().filter_map(of).collect();
        waiting.sort_by_key(|waiting| waiting.since);
        waiting
    }

    fn of(&mut self, node: &str, stream: u64) -> Option<&mut ProxyState> {
        self.proxies.get_mut(node).filter(|state| state.stream == stream)
    }

    fn push(&mut self, change: Change) {
        // A superseded change no longer waits: its proxies answer for the newer one.
        if change.accepted {
            for older in &mut self.changes {
                older.waiting.clear();
            }
        }
        self.changes.push_front(change);
        // The serving change must not be pushed out by refused ones.
        if self.changes.len() > HISTORY {
            let serving = self.changes.iter().position(|change| change.accepted).unwrap_or(0);
            let last = self.changes.len() - 1;
            self.changes.remove(if serving == last { last - 1 } else { last });
        }
    }

    fn converge(&mut self, now: Now) -> Vec<(Arc<str>, Duration)> {
        let mut done = Vec::new();
        if let Some(change) = self.changes.iter_mut().find(|change| change.accepted)
            && change.waiting.is_empty()
            && change.converged.is_none()
        {
            let took = now.instant.saturating_duration_since(change.at);
            change.converged = Some(took);
            done.push((change.commit.clone(), took));
        }
        done
    }
}

impl ProxyState {
    fn unanswered(&self) -> impl Iterator<Item = Unanswered> {
        let one = |(type_url, since): (&&'static str, &SystemTime)| Unanswered {
            kind: weft_xds::type_url::short(type_url).to_owned(),
            since: unix_seconds(*since),
        };
        self.unanswered.iter().map(one)
    }

    fn state(&self) -> &'static str {
        match () {
            () if !self.connected => "lost",
            () if !self.refusals.is_empty() => "refused",
            () if self.settled < self.sent || self.sent == 0 => "pending",
            () => "acknowledged",
        }
    }

    fn status(&self, node: &str) -> ProxyStatus {
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

impl Change {
    fn status(&self, serving: Option<u64>, waiting: Vec<Waiting>) -> ChangeStatus {
        let names = |set: &BTreeSet<Arc<str>>| set.iter().map(ToString::to_string).collect();
        let state = match () {
            () if !self.accepted => ChangeState::Refused,
            () if serving != Some(self.generation) => ChangeState::Superseded,
            () if !self.refused.is_empty() => ChangeState::Degraded,
            () if !self.waiting.is_empty() => ChangeState::Rolling,
            () => ChangeState::Done,
        };
        ChangeStatus {
            commit: self.commit.to_string(),
            subject: self.subject.clone(),
            state,
            published_at: unix_seconds(self.published_at),
            // Published to nobody is no measurement.
            converged_ms: self.converged.filter(|took| !took.is_zero()).map(|took| took.as_secs_f64() * 1e3),
            compile_ms: self.compile.as_secs_f64() * 1e3,
            acknowledged: names(&self.acknowledged),
            refused: names(&self.refused),
            pending: names(&self.waiting),
            waiting,
            findings: self.findings.clone(),
        }
    }
}

#[cfg(test)]
mod tests;
