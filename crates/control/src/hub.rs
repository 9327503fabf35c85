//! The one place where commits, endpoints and streams meet: what changed marks work, the publisher turns it into snapshots.
//!
//! One lock guards plain state and is never held across an await. Snapshots are compiled outside of it, by the publisher alone, so
//! that each stream sees generations in order. Work that arrives while the publisher is busy is taken together in its next
//! round: no timer delays a removal, and a thousand arrivals still do not cost a thousand rounds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, watch};
use tonic::Status;
use weft_compile::{CompiledMesh, Endpoint, EndpointSet, Proxy, ProxyKind};
use weft_model::{ServiceName, SpiffeId};
use weft_xds::{Nack, Node, Snapshot};

use crate::issued::Issued;
use crate::metrics::Metrics;
use crate::node::{Introduction, NodeKind, introduce};
use crate::registry::{Registration, Registry, Touched};
use crate::status::{FindingStatus, ProxyStatus, Refusal, RefusedCommit, unix_seconds};
use crate::tracker::{Now, Tracker};

pub(crate) struct Hub {
    state: Mutex<State>,
    /// There is something to publish.
    work: Notify,
    /// The registry differs from what is saved.
    pub(crate) registry_changed: Notify,
    /// What is known of certificates differs from what is saved.
    pub(crate) issued_changed: Notify,
    /// Grows whenever a stream settles, opens or closes; whoever waits for that looks at the tracker again.
    progress: watch::Sender<u64>,
    grace: Duration,
    pub(crate) metrics: Metrics,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) mesh: Option<Arc<CompiledMesh>>,
    /// Whether everything that a client can ask is answered: tokens, identities, xDS, authorization.
    pub(crate) open: bool,
    pub(crate) registry: Registry,
    pub(crate) endpoints: EndpointSet,
    pub(crate) tracker: Tracker,
    /// The certificates that are out.
    pub(crate) issued: Issued,
    /// The newest commit, when it was refused.
    pub(crate) refused: Option<RefusedCommit>,
    /// Why the repository cannot be read now.
    pub(crate) git_error: Option<String>,
    /// What the check found in the newest commit.
    pub(crate) findings: Vec<FindingStatus>,
    streams: BTreeMap<u64, Stream>,
    last_stream: u64,
    generation: u64,
    dirty: Dirty,
}

struct Stream {
    /// As it was last said.
    introduction: Introduction,
    proxy: Proxy,
    snapshots: Arc<watch::Sender<Arc<Snapshot>>>,
}

/// A stream that was let in.
pub(crate) struct Opened {
    pub(crate) stream: u64,
    pub(crate) node: Arc<str>,
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
}

/// What one round compiles and for whom.
struct Round {
    mesh: Arc<CompiledMesh>,
    endpoints: EndpointSet,
    generation: u64,
    streams: Vec<(Proxy, Arc<watch::Sender<Arc<Snapshot>>>)>,
}

/// What the next round must publish.
#[derive(Default)]
struct Dirty {
    everyone: bool,
    callers_of: Touched,
    streams: BTreeSet<u64>,
}

impl Dirty {
    fn is_clean(&self) -> bool {
        !self.everyone && self.callers_of.is_empty() && self.streams.is_empty()
    }
}

/// What the withdrawal of an endpoint came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Withdrawn {
    /// Subscribers that no longer send anything to it.
    pub(crate) acknowledged: usize,
    /// Subscribers that had not answered when the bound was reached.
    pub(crate) waiting: usize,
}

impl Hub {
    pub(crate) fn new(registry: Registry, issued: Issued, grace: Duration) -> Arc<Self> {
        let mut state = State { registry, issued, ..State::default() };
        let services = state.registry.iter().map(|(_, registration)| registration.service.clone()).collect();
        state.refresh(&services);
        Arc::new(Self {
            state: Mutex::new(state),
            work: Notify::new(),
            registry_changed: Notify::new(),
            issued_changed: Notify::new(),
            progress: watch::Sender::new(0),
            grace,
            metrics: Metrics::default(),
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a checked and compiled commit in force.
    pub(crate) fn commit(&self, mesh: CompiledMesh, subject: String, took: Duration, findings: Vec<FindingStatus>) {
        let mut state = self.state();
        let (generation, commit) = (state.generation + 1, mesh.revision().clone());
        state.findings.clone_from(&findings);
        state.refused = None;
        state.tracker.commit(commit, subject, generation, took, findings, Now::read());
        state.mesh = Some(Arc::new(mesh));
        state.dirty.everyone = true;
        drop(state);
        self.metrics.validation_passed.add(1);
        self.work.notify_one();
        self.progressed();
    }

    /// Remembers a commit that the check refused; nothing else changes.
    pub(crate) fn refuse(&self, commit: &str, subject: String, took: Duration, findings: Vec<FindingStatus>) {
        self.metrics.validation_failed.add(1);
        let (mut state, now) = (self.state(), Now::read());
        state.findings.clone_from(&findings);
        state.refused = Some(RefusedCommit {
            commit: commit.to_owned(),
            subject: subject.clone(),
            at: unix_seconds(now.wall),
            findings: findings.clone(),
        });
        state.tracker.refuse(commit.into(), subject, findings, took, now);
    }

    /// Lets a stream in. Its first snapshot is compiled here, so that it never sees an empty mesh that is not.
    pub(crate) fn open(&self, peer: Option<SpiffeId>, node: &Node) -> Result<Opened, Status> {
        let mut state = self.state();
        let Some(mesh) = state.mesh.clone() else {
            return Err(Status::unavailable("no commit has passed the check yet: see `weft status`"));
        };
        let introduction = introduce(peer, node, &mesh.intent().mesh.trust_domain)?;
        if !mesh.intent().services.contains_key(&introduction.service) {
            return Err(Status::failed_precondition(format!(
                "commit {} has no service {}; add a Service document for it",
                short(mesh.revision()),
                introduction.service
            )));
        }
        state.last_stream += 1;
        let stream = state.last_stream;
        state.tracker.opened(&introduction.node, stream, introduction.facts(), Now::read());
        let touched = state.register(&introduction);
        let proxy = proxy_of(&introduction);
        // The generation in progress may not hold this node's own registration; the next round will.
        let generation = state.generation.max(1);
        state.generation = generation;
        let first = compose(&mesh, &state.endpoints, &proxy, generation);
        state.tracker.published(&introduction.node, stream, generation);
        let (sender, receiver) = watch::channel(Arc::new(first));
        let node = introduction.node.clone();
        state.streams.insert(stream, Stream { introduction, proxy, snapshots: Arc::new(sender) });
        self.touch(state, touched);
        self.metrics.connections.add(1);
        Ok(Opened { stream, node, snapshots: receiver })
    }

    /// The Node of an open stream changed: it became ready or not, or moved.
    pub(crate) fn node_changed(&self, stream: u64, node: &Node) -> Result<(), Status> {
        let mut state = self.state();
        let Some(trust_domain) = state.mesh.as_ref().map(|mesh| mesh.intent().mesh.trust_domain.clone()) else {
            return Ok(());
        };
        let Some(known) = state.streams.get(&stream) else { return Ok(()) };
        let introduction = introduce(Some(known.introduction.identity.clone()), node, &trust_domain)?;
        if introduction.node != known.introduction.node {
            return Err(Status::invalid_argument("Node.id must not change within a stream"));
        }
        let proxy = proxy_of(&introduction);
        let moved = proxy != known.proxy;
        state.tracker.facts(&introduction.node, stream, introduction.facts());
        let touched = state.register(&introduction);
        if moved {
            state.dirty.streams.insert(stream);
        }
        if let Some(known) = state.streams.get_mut(&stream) {
            (known.introduction, known.proxy) = (introduction, proxy);
        }
        self.touch(state, touched);
        Ok(())
    }

    /// The stream ended; its endpoint stays for the grace period. If the node has another stream, that one speaks for it from now on.
    pub(crate) fn closed(&self, stream: u64) {
        let mut state = self.state();
        let Some(closed) = state.streams.remove(&stream) else { return };
        let (node, now) = (closed.introduction.node, Now::read());
        if state.tracker.closed(&node, stream, now) {
            let of_node = state.streams.iter().rev().find(|(_, other)| other.introduction.node == node);
            match of_node.map(|(id, other)| (*id, other.introduction.clone())) {
                Some((heir, introduction)) => {
                    state.tracker.opened(&node, heir, introduction.facts(), now);
                    let touched = state.register(&introduction);
                    state.dirty.streams.insert(heir); // what it has settled is told again
                    return self.touch(state, touched);
                }
                None => state.registry.lost(&node, now.instant),
            }
        }
        drop(state);
        self.work.notify_one(); // the publisher looks at its next expiry
        self.progressed();
    }

    pub(crate) fn settled(&self, stream: u64, node: &Arc<str>, commit: &str, generation: u64) {
        let settled = self.state().tracker.settled(node, stream, generation, commit, Now::read());
        if let Some(took) = settled.took {
            self.metrics.proxy_convergence.observe(took.as_secs_f64());
        }
        for (commit, took) in settled.converged {
            self.metrics.commit_convergence.observe(took.as_secs_f64());
            tracing::info!(
                commit = short(&commit),
                took_ms = crate::change::millis(took),
                "every connected proxy runs the commit"
            );
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

    /// Takes an endpoint out and waits until nobody is sent to it any more, at most for `bound`.
    pub(crate) async fn withdraw(&self, node: &str, bound: Duration) -> Withdrawn {
        let target = self.begin_withdrawal(node);
        self.work.notify_one();
        self.registry_changed.notify_one();

        let mut progress = self.progress.subscribe();
        let all_settled = async {
            loop {
                progress.mark_unchanged();
                {
                    let state = self.state();
                    if state.generation >= target && state.tracker.waiting_for(target, node).is_empty() {
                        return;
                    }
                }
                if progress.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(bound, all_settled).await; // what is still waiting is in the answer
        let state = self.state();
        let waiting = state.tracker.waiting_for(target, node).len();
        Withdrawn { acknowledged: state.tracker.told(target, node).saturating_sub(waiting), waiting }
    }

    /// Removes the endpoint and returns the generation in which nobody is told of it any more.
    fn begin_withdrawal(&self, node: &str) -> u64 {
        let mut state = self.state();
        state.tracker.leaving(node);
        let touched = state.registry.remove(node);
        state.refresh(&touched);
        state.dirty.callers_of.extend(touched);
        // A "not ready" may have come first and be on its way: wait for whatever is not yet settled.
        if state.dirty.is_clean() { state.generation } else { state.generation + 1 }
    }

    /// Publishes until the process ends.
    pub(crate) async fn publish_forever(self: Arc<Self>) {
        loop {
            let next_expiry = self.next_expiry();
            let expiry = async {
                match next_expiry {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.work.notified() => {}
                () = expiry => {}
            }
            self.expire(Instant::now());
            self.publish().await;
        }
    }

    /// When an endpoint, or a proxy that is lost, will be given up.
    fn next_expiry(&self) -> Option<Instant> {
        let state = self.state();
        [state.registry.next_expiry(self.grace), state.tracker.next_forgotten(self.grace)].into_iter().flatten().min()
    }

    fn expire(&self, now: Instant) {
        let mut state = self.state();
        let touched = state.registry.expire(now, self.grace);
        state.tracker.forget(now, self.grace);
        if !touched.is_empty() {
            tracing::info!(services = ?touched, "endpoints whose sidecars did not come back were removed");
            state.refresh(&touched);
            state.dirty.callers_of.extend(touched);
            self.registry_changed.notify_one();
        }
    }

    /// One round: everything that is dirty now.
    async fn publish(&self) {
        let started = Instant::now();
        let Some(Round { mesh, endpoints, generation, streams }) = self.take_work() else { return };
        let count = streams.len();
        for (n, (proxy, snapshots)) in streams.into_iter().enumerate() {
            let mut snapshot = compose(&mesh, &endpoints, &proxy, generation);
            snapshot.share_with(&snapshots.borrow().clone());
            snapshots.send_replace(Arc::new(snapshot));
            if n % 64 == 63 {
                tokio::task::yield_now().await; // let the streams send what is ready
            }
        }
        self.metrics.push_time.observe(started.elapsed().as_secs_f64());
        self.progressed();
        tracing::debug!(generation, proxies = count, took = ?started.elapsed(), "published");
    }

    fn take_work(&self) -> Option<Round> {
        let mut guard = self.state();
        let state = &mut *guard;
        let mesh = state.mesh.clone()?;
        if state.dirty.is_clean() {
            return None;
        }
        let dirty = std::mem::take(&mut state.dirty);
        state.generation += 1;
        let mut streams = Vec::new();
        for (id, stream) in &state.streams {
            let concerned = dirty.everyone
                || dirty.streams.contains(id)
                || dirty.callers_of.iter().any(|callee| mesh.policy().may_call(&stream.proxy.service, callee));
            if concerned {
                state.tracker.published(&stream.introduction.node, *id, state.generation);
                streams.push((stream.proxy.clone(), stream.snapshots.clone()));
            }
        }
        Some(Round { mesh, endpoints: state.endpoints.clone(), generation: state.generation, streams })
    }

    fn touch(&self, mut state: MutexGuard<'_, State>, touched: Touched) {
        if !touched.is_empty() {
            state.refresh(&touched);
            state.dirty.callers_of.extend(touched);
            self.registry_changed.notify_one();
        }
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

impl State {
    fn register(&mut self, introduction: &Introduction) -> Touched {
        match &introduction.kind {
            NodeKind::Agent(agent) if agent.ready => {
                let registration = Registration {
                    service: introduction.service.clone(),
                    address: agent.address(),
                    labels: agent.labels.clone(),
                };
                self.registry.register(&introduction.node, registration)
            }
            _ => self.registry.remove(&introduction.node),
        }
    }

    /// Rebuilds the lists of the given services; all others keep their pointers, by which the compiler sees that nothing changed.
    fn refresh(&mut self, services: &Touched) {
        for service in services {
            let of_service = |entry: &(&Arc<str>, &Registration)| entry.1.service == *service;
            let endpoint = |(node, registration): (&Arc<str>, &Registration)| Endpoint {
                address: registration.address,
                labels: registration.labels.clone(),
                id: node.clone(),
            };
            let list: Arc<[Endpoint]> = self.registry.iter().filter(of_service).map(endpoint).collect();
            if list.is_empty() {
                self.endpoints.remove(service);
            } else {
                self.endpoints.insert(service.clone(), list);
            }
        }
    }

    /// Every proxy, and every node whose certificate has run out.
    pub(crate) fn proxies(&self) -> Vec<ProxyStatus> {
        self.issued.complete(self.tracker.proxies(), unix_seconds(SystemTime::now()))
    }

    /// Endpoints of a service that callers are sent now.
    pub(crate) fn endpoints_of(&self, service: &ServiceName) -> &[Endpoint] {
        self.endpoints.get(service).map_or(&[], |list| list)
    }
}

fn proxy_of(introduction: &Introduction) -> Proxy {
    let service = introduction.service.clone();
    match &introduction.kind {
        NodeKind::Agent(agent) => Proxy {
            service,
            ingress: agent.ingress,
            egress: agent.egress,
            app: agent.app,
            access_log: agent.access_log.clone(),
            kind: ProxyKind::Sidecar,
        },
        NodeKind::Grpc => {
            let nowhere = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
            Proxy {
                service,
                ingress: nowhere,
                egress: nowhere,
                app: nowhere,
                access_log: String::new(),
                kind: ProxyKind::Grpc,
            }
        }
    }
}

fn compose(mesh: &CompiledMesh, endpoints: &EndpointSet, proxy: &Proxy, generation: u64) -> Snapshot {
    let mut snapshot = weft_compile::compile(mesh, endpoints, proxy);
    snapshot.serial = generation;
    snapshot
}

/// The first 12 characters of a commit id, for people.
pub(crate) fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}

#[cfg(test)]
mod tests;
