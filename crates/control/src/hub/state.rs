//! Everything that the hub knows: the mesh in force, who can be called, who listens. Plain data; time is passed in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use weft_compile::{CompiledMesh, Endpoint, EndpointSet, Proxy};
use weft_model::ServiceName;
use weft_policy::{BreakGlass, Breaking};
use weft_xds::Snapshot;

use super::dirty::Dirty;
use crate::issued::Issued;
use crate::node::Introduction;
use crate::plain_text::Watched;
use crate::registry::{Registration, Registry, Touched};
use crate::status::{FindingStatus, ProxyStatus, RefusedCommit, unix_seconds};
use crate::tracker::{Now, Tracker};

#[derive(Default)]
pub(crate) struct State {
    pub(crate) mesh: Option<Arc<CompiledMesh>>,
    /// That the glass is broken.
    pub(crate) break_glass: Option<BreakGlass>,
    /// Whether everything that a client can ask is answered: tokens, identities, xDS, authorization.
    pub(crate) open: bool,
    pub(crate) registry: Registry,
    pub(super) endpoints: EndpointSet,
    pub(crate) tracker: Tracker,
    /// The certificates that are out.
    pub(crate) issued: Issued,
    /// Who calls permissive services in plain text.
    pub(crate) plain_text: Watched,
    /// The newest commit, when it was refused.
    pub(crate) refused: Option<RefusedCommit>,
    /// Why the repository cannot be read now.
    pub(crate) git_error: Option<String>,
    /// What the check found in the newest commit.
    pub(crate) findings: Vec<FindingStatus>,
    pub(super) streams: BTreeMap<u64, Stream>,
    pub(super) last_stream: u64,
    pub(super) generation: u64,
    pub(super) dirty: Dirty,
}

/// An open stream.
pub(super) struct Stream {
    /// As it was last said.
    pub(super) introduction: Introduction,
    pub(super) proxy: Proxy,
    pub(super) snapshots: Arc<watch::Sender<Arc<Snapshot>>>,
}

/// What the withdrawal of an endpoint came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Withdrawn {
    /// Subscribers that no longer send anything to it.
    pub(crate) acknowledged: usize,
    /// Subscribers that had not answered when the bound was reached.
    pub(crate) waiting: usize,
}

impl State {
    /// Nobody listens yet; these endpoints are known.
    pub(super) fn new(registry: Registry, issued: Issued) -> Self {
        let mut state = Self { registry, issued, ..Self::default() };
        let services = state.registry.iter().map(|(_, registration)| registration.service.clone()).collect();
        state.refresh(&services);
        state
    }

    /// Puts a checked and compiled commit in force.
    pub(super) fn commit(
        &mut self,
        mesh: CompiledMesh,
        subject: String,
        took: Duration,
        findings: Vec<FindingStatus>,
        now: Now,
    ) {
        self.findings.clone_from(&findings);
        self.refused = None;
        self.tracker.commit(mesh.revision().clone(), subject, self.generation + 1, took, findings, now);
        self.plain_text.follow(mesh.intent(), unix_seconds(now.wall));
        let broken = self.break_glass.take().filter(|broken| is_still_permitted(&mesh, broken));
        self.break_glass.clone_from(&broken);
        self.mesh = Some(Arc::new(if broken.is_some() { mesh.with_break_glass(broken) } else { mesh }));
        self.dirty.everyone = true;
    }

    /// Breaks the glass, or makes it whole again.
    pub(super) fn break_glass(&mut self, broken: Option<BreakGlass>) {
        self.mesh = self.mesh.take().map(|mesh| Arc::new(mesh.with_break_glass(broken.clone())));
        self.break_glass = broken;
        self.dirty.everyone = true;
    }

    /// Remembers a commit that the check refused; nothing else changes.
    pub(super) fn refuse(
        &mut self,
        commit: &str,
        subject: String,
        took: Duration,
        findings: Vec<FindingStatus>,
        now: Now,
    ) {
        self.findings.clone_from(&findings);
        self.refused = Some(RefusedCommit {
            commit: commit.to_owned(),
            subject: subject.clone(),
            at: unix_seconds(now.wall),
            findings: findings.clone(),
        });
        self.tracker.refuse(commit.into(), subject, findings, took, now);
    }

    /// Every proxy, and every node whose certificate has run out.
    pub(crate) fn proxies(&self) -> Vec<ProxyStatus> {
        self.issued.complete(self.tracker.proxies(), unix_seconds(SystemTime::now()))
    }

    /// Endpoints of a service that callers are sent now.
    pub(crate) fn endpoints_of(&self, service: &ServiceName) -> &[Endpoint] {
        self.endpoints.get(service).map_or(&[], |list| list)
    }

    /// The endpoints of these services have changed: their callers are to hear of it. Returns whether there were any.
    pub(super) fn touch(&mut self, touched: Touched) -> bool {
        let any = !touched.is_empty();
        self.refresh(&touched);
        self.dirty.callers_of.extend(touched);
        any
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

    /// Removes an endpoint and returns the generation in which nobody is told of it any more.
    pub(super) fn begin_withdrawal(&mut self, node: &str) -> u64 {
        self.tracker.leaving(node);
        let touched = self.registry.remove(node);
        self.touch(touched);
        // A "not ready" may have come first and be on its way: wait for whatever is not yet settled.
        if self.dirty.is_clean() { self.generation } else { self.generation + 1 }
    }

    /// How far the withdrawal of `node` in the generation `target` has come; `None` while that is not published.
    pub(super) fn withdrawn(&self, target: u64, node: &str) -> Option<Withdrawn> {
        let waiting = self.tracker.waiting_for(target, node).len();
        let acknowledged = self.tracker.told(target, node).saturating_sub(waiting);
        (self.generation >= target).then_some(Withdrawn { acknowledged, waiting })
    }

    /// When an endpoint, or a proxy that is lost, will be given up.
    pub(super) fn next_expiry(&self, grace: Duration) -> Option<Instant> {
        [self.registry.next_expiry(grace), self.tracker.next_forgotten(grace)].into_iter().flatten().min()
    }

    /// Gives up what has been lost for `grace`; the services that lost an endpoint by it.
    pub(super) fn expire(&mut self, now: Instant, grace: Duration) -> Touched {
        let touched = self.registry.expire(now, grace);
        self.tracker.forget(now, grace);
        self.touch(touched.clone());
        touched
    }
}

/// Whoever may no longer break the glass no longer has it broken: what was asked is judged again, as of then, by the policies of a new commit.
fn is_still_permitted(mesh: &CompiledMesh, broken: &BreakGlass) -> bool {
    let now = UNIX_EPOCH + Duration::from_secs(broken.from);
    let (operator, reason) = (&*broken.operator, &*broken.reason);
    // Its end was rounded up.
    let minutes = ((broken.until - broken.from) / 60).max(1);
    let is_known = mesh.intent().operators.contains_key(operator);
    let decision = mesh.policy().may_break_glass(&Breaking { operator, minutes, reason, now });
    if !(is_known && decision.allowed) {
        let why = if is_known { &*decision.reason } else { "there is no such operator any more" };
        tracing::warn!(operator, reason, why, "break-glass is ended: the commit does not permit it any more");
    }
    is_known && decision.allowed
}
