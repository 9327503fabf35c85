//! The one place where commits, endpoints and streams meet: what changed marks work, the publisher turns it into snapshots.
//!
//! One lock guards plain state and is never held across an await. What an event means is decided in [`State`], which is pure; here
//! it is locked, told, and whoever waits is woken. Snapshots are compiled outside of the lock, by the publisher alone (`publish`).
//! Work that arrives while the publisher is busy is taken together in its next round: no timer delays a removal, and a thousand
//! arrivals still do not cost a thousand rounds.

mod dirty;
mod proxy;
mod publish;
mod round;
mod shared;
mod state;
mod streams;
mod withdraw;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};
use tonic::Status;
use weft_compile::CompiledMesh;
use weft_model::SpiffeId;
use weft_policy::BreakGlass;
use weft_xds::{Nack, Node};

use crate::issued::Issued;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::status::{FindingStatus, Refusal, unix_seconds};
use crate::text::{millis, short};
use crate::tracker::Now;

pub(crate) use state::State;
use streams::Left;
pub(crate) use streams::Opened;

pub(crate) struct Hub {
    state: Mutex<State>,
    /// The mesh of `state`, for whoever asks so often that the lock would be in the way.
    mesh: ArcSwapOption<CompiledMesh>,
    /// There is something to publish.
    work: Notify,
    /// The registry differs from what is saved.
    pub(crate) registry_changed: Notify,
    /// The other control planes may have to hear of endpoints.
    pub(crate) to_share: Notify,
    /// What is known of certificates differs from what is saved.
    pub(crate) issued_changed: Notify,
    /// Grows whenever a stream settles, opens or closes; whoever waits for that looks at the tracker again.
    progress: watch::Sender<u64>,
    grace: Duration,
    pub(crate) metrics: Metrics,
}

impl Hub {
    pub(crate) fn new(registry: Registry, issued: Issued, grace: Duration) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::new(registry, issued)),
            mesh: ArcSwapOption::default(),
            work: Notify::new(),
            registry_changed: Notify::new(),
            to_share: Notify::new(),
            issued_changed: Notify::new(),
            progress: watch::Sender::new(0),
            grace,
            metrics: Metrics::default(),
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mesh in force, without the lock.
    pub(crate) fn mesh(&self) -> Option<Arc<CompiledMesh>> {
        self.mesh.load_full()
    }

    /// Puts a checked and compiled commit in force.
    pub(crate) fn commit(&self, mesh: CompiledMesh, subject: String, took: Duration, findings: Vec<FindingStatus>) {
        let mut state = self.state();
        state.commit(mesh, subject, took, findings, Now::read());
        self.mesh.store(state.mesh.clone());
        drop(state);
        self.metrics.validation_passed.add(1);
        self.work.notify_one();
        self.progressed();
    }

    /// Breaks the glass, or makes it whole again; returns how many services have policies that ask.
    pub(crate) fn break_glass(&self, broken: Option<BreakGlass>) -> usize {
        let mut state = self.state();
        let mesh = state.mesh.clone();
        state.break_glass(broken);
        self.mesh.store(state.mesh.clone());
        drop(state);
        self.work.notify_one();
        mesh.map_or(0, |mesh| mesh.policy().services_that_read_break_glass())
    }

    /// Remembers a commit that the check refused; nothing else changes.
    pub(crate) fn refuse(&self, commit: &str, subject: String, took: Duration, findings: Vec<FindingStatus>) {
        self.metrics.validation_failed.add(1);
        self.state().refuse(commit, subject, took, findings, Now::read());
    }

    /// Lets a stream in. Its first snapshot is compiled here, so that it never sees an empty mesh that is not.
    pub(crate) fn open(&self, peer: Option<SpiffeId>, node: &Node) -> Result<Opened, Status> {
        let mut state = self.state();
        let (opened, endpoints_changed) = state.admit(peer, node, Now::read())?;
        self.wake(state, endpoints_changed);
        self.metrics.connections.add(1);
        Ok(opened)
    }

    /// The Node of an open stream changed: it became ready or not, or moved.
    pub(crate) fn node_changed(&self, stream: u64, node: &Node) -> Result<(), Status> {
        let mut state = self.state();
        let endpoints_changed = state.node_changed(stream, node)?;
        self.wake(state, endpoints_changed);
        Ok(())
    }

    /// The stream ended; its endpoint stays for the grace period. If the node has another stream, that one speaks for it from now on.
    pub(crate) fn closed(&self, stream: u64) {
        let mut state = self.state();
        match state.closed(stream, Now::read()) {
            None => {}
            Some(Left::Heir { endpoints_changed }) => self.wake(state, endpoints_changed),
            Some(Left::Nothing) => {
                drop(state);
                self.work.notify_one(); // the publisher looks at its next expiry
                self.progressed();
            }
        }
    }

    pub(crate) fn settled(&self, stream: u64, node: &Arc<str>, commit: &str, generation: u64) {
        let settled = self.state().tracker.settled(node, stream, generation, commit, Now::read());
        if let Some(took) = settled.took {
            self.metrics.proxy_convergence.observe(took.as_secs_f64());
        }
        for (commit, took) in settled.converged {
            self.metrics.commit_convergence.observe(took.as_secs_f64());
            tracing::info!(commit = short(&commit), took_ms = millis(took), "every connected proxy runs the commit");
        }
        self.progressed();
    }

    pub(crate) fn acked(&self, stream: u64, node: &Arc<str>, type_url: &'static str, still_refused: &[Arc<str>]) {
        self.state().tracker.acked(node, stream, type_url, still_refused);
    }

    pub(crate) fn nacked(&self, stream: u64, node: &Arc<str>, nack: &Nack) {
        self.metrics.rejects.add(weft_xds::type_url::short(nack.type_url), 1);
        tracing::warn!(
            %node,
            kind = weft_xds::type_url::short(nack.type_url),
            revision = &*nack.revision,
            resources = ?nack.resources,
            reason = nack.reason,
            "a proxy refuses a part of its configuration and keeps what it had"
        );
        let refusal = Refusal {
            kind: weft_xds::type_url::short(nack.type_url).to_owned(),
            resources: nack.blamed().iter().map(|rejection| rejection.name.to_string()).collect(),
            reason: nack.reason.clone(),
            at: unix_seconds(SystemTime::now()),
        };
        self.state().tracker.nacked(node, stream, nack.type_url, refusal, &nack.resources);
    }

    pub(crate) fn sent(&self, stream: u64, node: &str, type_url: &'static str, resources: usize, bytes: usize) {
        self.metrics.pushes.add(weft_xds::type_url::short(type_url), 1);
        self.metrics.config_size.observe(bytes as f64);
        self.state().tracker.sent(node, stream, type_url, resources, bytes, Now::read());
    }

    /// Wakes whoever has to do with what just changed.
    fn wake(&self, state: MutexGuard<'_, State>, endpoints_changed: bool) {
        if endpoints_changed {
            self.registry_changed.notify_one();
        }
        self.to_share.notify_one(); // an endpoint that came from another control plane is no change to its callers
        if !state.dirty.is_clean() {
            self.work.notify_one();
        }
        drop(state);
        self.progressed();
    }

    /// Changes whenever a stream settles, opens or closes, and when a commit is put in force.
    pub(crate) fn progress(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    fn progressed(&self) {
        self.progress.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
mod tests;
