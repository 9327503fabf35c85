//! Who runs what: the state of every proxy and the way of every commit through the mesh.
//!
//! Pure: time is passed in, no I/O. A *generation* counts what was published (a commit or a change of endpoints); a proxy that
//! has settled generation 7 has answered, with ACK or NACK, everything that 7 changed for it.

mod history;
mod now;
mod proxy;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::status::{
    ChangeStatus, FindingStatus, ProxyCounts, ProxyStatus, Refusal, Unanswered, Waiting, unix_seconds,
};
use history::{Change, History};
use proxy::ProxyState;

pub use now::Now;
pub use proxy::ProxyFacts;

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
    history: History,
}

impl Tracker {
    /// A stream of `node` was opened. Its first snapshot will be of the newest generation.
    pub fn opened(&mut self, node: &Arc<str>, stream: u64, facts: ProxyFacts, now: Now) {
        self.proxies.insert(node.clone(), ProxyState::opened(facts, stream, now));
        self.history.joined(node);
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
        self.history.left(node);
        self.history.converge(now);
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
        let took = self.history.settled(node, generation, refuses, now);
        Settled { took, converged: self.history.converge(now) }
    }

    /// A response of a type was accepted: what the proxy refused of that type before no longer holds, but for what is `still_refused`.
    pub fn acked(&mut self, node: &Arc<str>, stream: u64, type_url: &str, still_refused: &[Arc<str>]) {
        let Some(state) = self.of(node, stream) else { return };
        if state.acked(type_url, still_refused) {
            self.history.mended(node);
        }
    }

    /// A response that `carried` these resources was refused. What was refused before and was not in it is refused still.
    pub fn nacked(
        &mut self,
        node: &Arc<str>,
        stream: u64,
        type_url: &'static str,
        refusal: Refusal,
        carried: &[Arc<str>],
    ) {
        let Some(state) = self.of(node, stream) else { return };
        state.nacked(type_url, refusal, carried);
        self.history.refused(node);
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
        self.history.push(Change {
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
        self.history.push(Change {
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
        self.others(except).filter(|(_, state)| state.owes(generation)).map(|(node, _)| node.clone()).collect()
    }

    /// How many streams were sent `generation` or later, other than `except`.
    pub fn told(&self, generation: u64, except: &str) -> usize {
        self.others(except).filter(|(_, state)| state.was_told(generation)).count()
    }

    fn others<'a>(&'a self, except: &'a str) -> impl Iterator<Item = (&'a Arc<str>, &'a ProxyState)> {
        self.proxies.iter().filter(move |(node, _)| &***node != except)
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
        let serving = self.history.serving().map(|change| change.generation);
        self.history.iter().map(|change| change.status(serving, self.waiting(change))).collect()
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
}

#[cfg(test)]
mod tests;
