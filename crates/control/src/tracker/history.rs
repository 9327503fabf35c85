//! The way of every commit through the mesh: who has it, who refuses it, who has not answered. Pure.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::now::Now;
use crate::status::{ChangeState, ChangeStatus, FindingStatus, Waiting, unix_seconds};

/// Commits that are remembered.
pub(super) const HISTORY: usize = 50;

/// One published or refused commit.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) commit: Arc<str>,
    pub(super) subject: String,
    pub(super) published_at: SystemTime,
    pub(super) at: Instant,
    pub(super) generation: u64,
    pub(super) compile: Duration,
    pub(super) converged: Option<Duration>,
    pub(super) waiting: BTreeSet<Arc<str>>,
    pub(super) acknowledged: BTreeSet<Arc<str>>,
    pub(super) refused: BTreeSet<Arc<str>>,
    pub(super) findings: Vec<FindingStatus>,
    pub(super) accepted: bool,
}

/// Changes, newest first.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<Change>);

impl History {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Change> {
        self.0.iter()
    }

    /// The commit in force.
    pub(super) fn serving(&self) -> Option<&Change> {
        self.0.iter().find(|change| change.accepted)
    }

    fn serving_mut(&mut self) -> Option<&mut Change> {
        self.0.iter_mut().find(|change| change.accepted)
    }

    pub(super) fn push(&mut self, change: Change) {
        // A superseded change no longer waits: its proxies answer for the newer one.
        if change.accepted {
            for older in &mut self.0 {
                older.waiting.clear();
            }
        }
        self.0.push_front(change);
        // The serving change must not be pushed out by refused ones.
        if self.0.len() > HISTORY {
            let serving = self.0.iter().position(|change| change.accepted).unwrap_or(0);
            let last = self.0.len() - 1;
            self.0.remove(if serving == last { last - 1 } else { last });
        }
    }

    /// A proxy has come: the commit in force waits for it.
    pub(super) fn joined(&mut self, node: &Arc<str>) {
        if let Some(change) = self.serving_mut() {
            change.acknowledged.remove(node);
            change.refused.remove(node);
            change.waiting.insert(node.clone());
        }
    }

    /// A proxy has gone: nothing waits for it.
    pub(super) fn left(&mut self, node: &str) {
        for change in &mut self.0 {
            change.waiting.remove(node);
            change.acknowledged.remove(node);
            change.refused.remove(node);
        }
    }

    /// A proxy has answered everything up to `generation`, and `refuses` some of it or not. Returns how long it took.
    pub(super) fn settled(&mut self, node: &Arc<str>, generation: u64, refuses: bool, now: Now) -> Option<Duration> {
        let mut took = None;
        for change in self.0.iter_mut().filter(|change| change.accepted && change.generation <= generation) {
            if change.waiting.remove(node) {
                took.get_or_insert(now.instant.saturating_duration_since(change.at));
                let list = if refuses { &mut change.refused } else { &mut change.acknowledged };
                list.insert(node.clone());
            }
        }
        took
    }

    /// A proxy refuses nothing any more.
    pub(super) fn mended(&mut self, node: &Arc<str>) {
        for change in &mut self.0 {
            if change.refused.remove(node) {
                change.acknowledged.insert(node.clone());
            }
        }
    }

    /// A proxy that had accepted the commit in force refuses a part of it.
    pub(super) fn refused(&mut self, node: &Arc<str>) {
        if let Some(change) = self.serving_mut()
            && change.acknowledged.remove(node)
        {
            change.refused.insert(node.clone());
        }
    }

    /// The commit in force, if it has just stopped waiting, and how long it took.
    pub(super) fn converge(&mut self, now: Now) -> Vec<(Arc<str>, Duration)> {
        let mut done = Vec::new();
        if let Some(change) = self.serving_mut()
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

impl Change {
    /// As it is shown; `serving` is the generation of the commit in force.
    pub(super) fn status(&self, serving: Option<u64>, waiting: Vec<Waiting>) -> ChangeStatus {
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
