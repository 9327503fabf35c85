//! What the agent has: which identities there are on its machine, by what it judges others, who is banned, and the services in use.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Semaphore, mpsc, watch};
use tonic::Status;
use weft_identity::bans::Leaf;
use weft_identity::saved::Saved;
use weft_identity::{
    Assignment, Audience, Bans, Federated, Identity, LiveIdentity, OnBehalf, OwnFault, Svid, Token, TrustBundle,
    schedule,
};
use weft_model::{AgentName, ServiceName, SpiffeId};
use weft_workload_api::{Entitlement, Grant, Granted};

use crate::digest::Digests;
use crate::metrics::{Issue, Metrics};
use crate::stored::Stored;
use crate::workload::{State, Workload};

/// Stands for the life of a certificate that is not known.
const LIFE: Duration = Duration::from_secs(100);
/// Processes that are looked at, and certificates that are written, at a time.
const LOOKS: usize = 16;
const WRITES: usize = 4;

/// See the module.
pub(crate) struct Workloads {
    agent: AgentName,
    machine: Option<String>,
    stored: Stored,
    assigned: watch::Sender<Option<Arc<Vec<Assignment>>>>,
    /// What vouches before the agent has an identity: that of its last one.
    before: Before,
    live: watch::Sender<Option<Arc<LiveIdentity>>>,
    on_behalf: watch::Sender<Option<Arc<OnBehalf>>>,
    /// Changes with everything that is nobody's alone: bundle, bans, assignments.
    common: watch::Sender<u64>,
    in_use: Mutex<HashMap<ServiceName, Arc<Workload>>>,
    /// Tells who keeps them of each that comes into use.
    new: mpsc::UnboundedSender<Arc<Workload>>,
    pub(crate) digests: Digests,
    /// Looks at processes, reads of their files, and writes of certificates that are under way.
    pub(crate) looking: Semaphore,
    pub(crate) reading: Semaphore,
    writing: Arc<Semaphore>,
    pub(crate) metrics: Metrics,
}

/// See [`Workloads`].
struct Before {
    bundle: Option<Arc<TrustBundle>>,
    federated: Federated,
    bans: Arc<Bans>,
}

/// A share in the certificate of a service, which is kept for as long as there is one.
pub(crate) struct Lease {
    pub(crate) workload: Arc<Workload>,
    pub(crate) state: watch::Receiver<State>,
}

impl Workloads {
    /// With what an earlier run has left in the state folder. What comes of the second is to be kept renewed.
    pub(crate) fn open(agent: AgentName, state: &Path) -> (Arc<Self>, mpsc::UnboundedReceiver<Arc<Workload>>) {
        let stored = Stored::new(state);
        let bundle = Saved::load(state).ok().flatten().map(|saved| Arc::new(saved.bundle));
        let machine = weft_identity::machine::MachineKey::load(state).ok().flatten().map(|key| key.id());
        let (new, receiver) = mpsc::unbounded_channel();
        let all = Self {
            agent,
            machine,
            assigned: watch::Sender::new(stored.assignments().map(Arc::new)),
            stored,
            before: Before { bundle, federated: Federated::load(state), bans: Arc::new(Bans::load(state)) },
            live: watch::Sender::default(),
            on_behalf: watch::Sender::default(),
            common: watch::Sender::default(),
            in_use: Mutex::default(),
            digests: Digests::default(),
            looking: Semaphore::new(LOOKS),
            reading: Semaphore::new(1),
            writing: Arc::new(Semaphore::new(WRITES)),
            metrics: Metrics::default(),
            new,
        };
        (Arc::new(all), receiver)
    }

    /// The agent has an identity, with which it asks for those of others from now on.
    pub(crate) fn begin(self: &Arc<Self>, identity: &Identity) {
        let (live, on_behalf) = (identity.live().clone(), Arc::new(identity.on_behalf()));
        self.live.send_replace(Some(live.clone()));
        self.on_behalf.send_replace(Some(on_behalf.clone()));
        self.changed();
        tokio::spawn(self.clone().follow_identity(live.clone()));
        tokio::spawn(self.clone().follow_assignments(live, on_behalf));
    }

    /// Bundle and bans come with the agent's own identity.
    async fn follow_identity(self: Arc<Self>, live: Arc<LiveIdentity>) {
        let (mut changes, mut bans) = (live.subscribe(), live.bans());
        loop {
            let changed = tokio::select! {
                changed = changes.changed() => changed,
                changed = bans.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
            self.replace_banned();
            self.changed();
            // Whoever waits for the control plane may have somebody to ask as again.
            self.on_behalf.send_modify(|_| {});
        }
    }

    /// A certificate whose number is banned is followed by another.
    fn replace_banned(&self) {
        let bans = self.bans();
        for workload in self.in_use().values() {
            let svid = workload.state.borrow().svid.clone();
            let leaf = svid.as_ref().and_then(|svid| Leaf::of(svid.chain().first()?).ok());
            if leaf.is_some_and(|leaf| bans.of(&leaf).is_some()) {
                workload.renew();
            }
        }
    }

    async fn follow_assignments(self: Arc<Self>, live: Arc<LiveIdentity>, on_behalf: Arc<OnBehalf>) {
        let mut failures = 0;
        loop {
            live.unexpired().await;
            let mut came = false;
            let told = |all: Vec<Assignment>, renew: Vec<ServiceName>| {
                came = true;
                self.take_over(all);
                for service in renew {
                    if let Some(workload) = self.in_use().get(&service) {
                        tracing::warn!(%service, "the root that signed this certificate is no longer trusted: getting another now");
                        workload.renew();
                    }
                }
            };
            match on_behalf.assignments(told).await {
                Ok(()) => tracing::debug!("the control plane ended the stream of assignments"),
                Err(error) if failures == 0 || came => {
                    tracing::info!(%error, "the control plane says nothing of assignments for now; going on with the last");
                }
                Err(error) => tracing::debug!(%error, failures, "still nothing of assignments"),
            }
            failures = if came { 1 } else { failures + 1 };
            tokio::time::sleep(schedule::backoff(failures, LIFE, rand::random())).await;
        }
    }

    fn take_over(&self, all: Vec<Assignment>) {
        if self.assigned.borrow().as_deref() == Some(&all) {
            return;
        }
        tracing::info!(services = all.len(), "whose identities there are on this machine has changed");
        self.stored.keep_assignments(&all);
        self.assigned.send_replace(Some(Arc::new(all)));
        self.changed();
    }

    fn changed(&self) {
        self.common.send_modify(|count| *count += 1);
    }

    /// Changes with bundle, bans and assignments.
    pub(crate) fn common(&self) -> watch::Receiver<u64> {
        self.common.subscribe()
    }

    /// What there is to ask with, when there is.
    pub(crate) fn on_behalf(&self) -> watch::Receiver<Option<Arc<OnBehalf>>> {
        self.on_behalf.subscribe()
    }

    /// Which identities there are on this machine; `None` if that is not known yet.
    pub(crate) fn assigned(&self) -> Option<Arc<Vec<Assignment>>> {
        self.assigned.borrow().clone()
    }

    /// The agent's own identity, once there is one.
    pub(crate) fn live(&self) -> Option<Arc<LiveIdentity>> {
        self.live.borrow().clone()
    }

    pub(crate) fn bundle(&self) -> Option<Arc<TrustBundle>> {
        match self.live() {
            Some(live) => live.load().bundle().cloned(),
            None => self.before.bundle.clone(),
        }
    }

    /// The bundles of other trust domains.
    fn federated(&self) -> Vec<Arc<TrustBundle>> {
        match self.live() {
            Some(live) => live.load().federated().iter().cloned().collect(),
            None => self.before.federated.iter().cloned().collect(),
        }
    }

    fn bans(&self) -> Arc<Bans> {
        match self.live() {
            Some(live) => live.bans().borrow().clone(),
            None => self.before.bans.clone(),
        }
    }

    /// Whether the agent itself is banned: then it has nothing for anybody.
    fn is_banned(&self, bundle: &TrustBundle) -> bool {
        let own = self.live().and_then(|live| Leaf::of(live.load().svid()?.chain().first()?).ok());
        let before = || {
            let id = SpiffeId::for_agent(bundle.trust_domain(), &self.agent);
            Leaf { id, serial: String::new(), machine: self.machine.clone() }
        };
        self.bans().of(&own.unwrap_or_else(before)).is_some()
    }

    /// A share in the certificate of a service; it is fetched if nobody has had one. `evidence` says what the first process is.
    pub(crate) fn lease(&self, service: &ServiceName, evidence: &dyn std::fmt::Display) -> Lease {
        let mut in_use = self.in_use();
        let workload = in_use.entry(service.clone()).or_insert_with(|| {
            let workload = Workload::new(service.clone(), evidence.to_string());
            let _ = self.new.send(workload.clone()); // who keeps them goes with the agent
            workload
        });
        Lease { workload: workload.clone(), state: workload.state.subscribe() }
    }

    /// Takes a service out of use, unless somebody has just taken a share.
    pub(crate) fn forget(&self, workload: &Workload) -> bool {
        let mut in_use = self.in_use();
        if workload.state.receiver_count() > 0 {
            return false;
        }
        tracing::debug!(service = %workload.service, "nobody wants its identity any more");
        in_use.remove(&workload.service);
        true
    }

    fn in_use(&self) -> MutexGuard<'_, HashMap<ServiceName, Arc<Workload>>> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stored_svid(&self, service: &ServiceName) -> Option<(Svid, SystemTime)> {
        let found = self.stored.svid(service, &*self.bundle()?)?;
        let leaf = Leaf::of(found.0.chain().first()?).ok()?;
        self.bans().of(&leaf).is_none().then_some(found)
    }

    /// Written beside everything else: nobody waits for the disk.
    pub(crate) fn keep_svid(&self, service: &ServiceName, svid: Arc<Svid>, bundle: TrustBundle, issued_at: SystemTime) {
        let (stored, service, places) = (self.stored.clone(), service.clone(), self.writing.clone());
        tokio::spawn(async move {
            let Ok(_place) = places.acquire().await else { return };
            let write = move || stored.keep_svid(&service, &svid, &bundle, issued_at);
            let _ = tokio::task::spawn_blocking(write).await; // what is not written is got anew
        });
    }

    /// The life that a certificate of a service will have.
    pub(crate) fn life(&self, service: &ServiceName) -> Duration {
        let assigned = self.assigned();
        let of = assigned.iter().flat_map(|all| all.iter()).find(|assignment| assignment.service == *service);
        of.map_or(LIFE, |assignment| assignment.svid_ttl)
    }

    /// What somebody is entitled to who has these shares.
    pub(crate) fn entitlement(&self, leases: &[Lease]) -> Entitlement {
        let Some(bundle) = self.bundle().filter(|bundle| !bundle.roots().is_empty()) else {
            return Entitlement::NotYet;
        };
        if leases.is_empty() || self.is_banned(&bundle) {
            return Entitlement::Nothing;
        }
        let bans = self.bans();
        let (mut identities, mut banned) = (Vec::new(), 0);
        for lease in leases {
            let id = SpiffeId::for_service(bundle.trust_domain(), &lease.workload.service);
            if bans.of_identity(&id).is_some() {
                banned += 1;
                continue;
            }
            let Some(svid) = lease.state.borrow().svid.clone() else { continue };
            let leaf = svid.chain().first().and_then(|leaf| Leaf::of(leaf).ok());
            if leaf.is_some_and(|leaf| bans.of(&leaf).is_none()) {
                let hint = if leases.len() > 1 { lease.workload.service.to_string() } else { String::new() };
                identities.push(Granted { svid, hint });
            }
        }
        match identities.is_empty() {
            _ if banned == leases.len() => Entitlement::Nothing,
            true => Entitlement::NotYet,
            false => {
                let federated = self.federated();
                Entitlement::Granted(Arc::new(Grant { identities, bundle, federated }))
            }
        }
    }

    /// A JWT-SVID of a service in use.
    pub(crate) async fn token(&self, lease: &Lease, audience: &Audience) -> Result<Token, Status> {
        let unavailable = |why: &dyn std::fmt::Display| Status::unavailable(why.to_string());
        let bundle = self.bundle().ok_or_else(|| unavailable(&OwnFault::Missing))?;
        let workload = &lease.workload;
        let id = SpiffeId::for_service(bundle.trust_domain(), &workload.service);
        if let Some(token) = workload.tokens.get(audience, &id, bundle.jwt()) {
            return Ok(token);
        }
        let on_behalf = self.on_behalf.borrow().clone().ok_or_else(|| unavailable(&OwnFault::Missing))?;
        let asked = on_behalf.token(&workload.service, audience).await;
        self.metrics.asked(Issue::Jwt, asked.is_ok());
        let token = asked.map_err(|error| {
            tracing::warn!(service = %workload.service, %error, "a process got no JWT-SVID");
            // That one token is refused takes no identity away: clients would take PERMISSION_DENIED for that.
            unavailable(&error)
        })?;
        workload.tokens.keep(audience, &token);
        Ok(token)
    }

    /// The ends of all certificates in use, by service.
    pub(crate) fn expiries(&self) -> Vec<(String, SystemTime)> {
        let in_use = self.in_use();
        let end = |workload: &Arc<Workload>| Some(workload.state.borrow().svid.as_ref()?.not_after());
        let mut ends: Vec<_> = in_use.values().filter_map(|it| Some((it.service.to_string(), end(it)?))).collect();
        ends.sort();
        ends
    }
}
