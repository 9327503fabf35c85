//! A process that asks, for as long as it listens: what it is entitled to, and that it is still what it was.
//!
//! It is looked at again before anything new is pushed to it, and every second whether it runs the same file. One that has become another
//! program, another user, or nobody, has what that is entitled to, and what it had is taken away.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{OptionFuture, select_all};
use tokio::sync::{Semaphore, watch};
use tokio::time::MissedTickBehavior;
use tonic::Status;
use weft_model::ServiceName;
use weft_workload_api::{Caller, Entitlement, no_identity};

use crate::attestor::{self, NotSeen};
use crate::facts::Facts;
use crate::matching;
use crate::metrics::Attestation;
use crate::workloads::{Lease, Workloads};

/// How long the first answer waits for a certificate.
const FIRST: Duration = Duration::from_secs(5);
/// How often a look is taken at what a process runs.
const LOOK: Duration = Duration::from_secs(1);

/// A process and the services that it is.
pub(crate) struct Attested {
    all: Arc<Workloads>,
    caller: Caller,
    facts: Facts,
    services: Vec<ServiceName>,
}

impl Attested {
    /// Looks at a caller.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`: it is no service. `UNAVAILABLE`: it is not known yet which services there are.
    pub(crate) async fn new(all: &Arc<Workloads>, caller: &Caller) -> Result<Self, Status> {
        let seen = attest(all.clone(), caller.clone()).await;
        let outcome = match &seen {
            Ok((_, services)) if services.is_empty() => Attestation::Denied,
            Ok(_) => Attestation::Granted,
            Err(_) => Attestation::Failed,
        };
        all.metrics.attested(outcome);
        let (facts, services) = seen?;
        if services.is_empty() {
            tracing::debug!(%facts, "a process is no service");
            return Err(no_identity());
        }
        tracing::debug!(%facts, ?services, "a process is attested");
        Ok(Self { all: all.clone(), caller: caller.clone(), facts, services })
    }

    /// A share in each of its certificates.
    pub(crate) fn leases(&self) -> Vec<Lease> {
        self.services.iter().map(|service| self.all.lease(service, &self.facts)).collect()
    }

    /// What it is entitled to, from now on until nobody listens.
    pub(crate) async fn follow(self) -> watch::Receiver<Entitlement> {
        let mut leases = self.leases();
        let first = async {
            for lease in &mut leases {
                let _ = lease.state.wait_for(|state| state.svid.is_some() || state.error.is_some()).await; // it lives with its share
            }
        };
        let _ = tokio::time::timeout(FIRST, first).await; // then it is told to try again
        let (sender, receiver) = watch::channel(self.all.entitlement(&leases));
        tokio::spawn(self.watch(leases, sender));
        receiver
    }

    async fn watch(mut self, mut leases: Vec<Lease>, sender: watch::Sender<Entitlement>) {
        let mut common = self.all.common();
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let Some(process) = self.caller.process.clone() else { return };
        loop {
            let renewed: Vec<_> = leases.iter_mut().map(|lease| Box::pin(lease.state.changed())).collect();
            let renewed = OptionFuture::from((!renewed.is_empty()).then(|| select_all(renewed)));
            let is_due = tokio::select! {
                () = sender.closed() => return,
                _ = common.changed() => true,
                Some(_) = renewed => true,
                _ = looks.tick() => !attestor::is_same(&process, &self.facts),
            };
            if !is_due {
                continue;
            }
            match attest(self.all.clone(), self.caller.clone()).await {
                Ok((facts, services)) => {
                    self.facts = facts;
                    if services != self.services {
                        tracing::info!(facts = %self.facts, was = ?self.services, is = ?services, "a process is something else now");
                        self.services = services;
                        leases = self.leases();
                    }
                }
                Err(status) if status.code() == tonic::Code::PermissionDenied => leases.clear(),
                Err(_) => continue, // what is only not known takes nothing away
            }
            leases.iter_mut().for_each(|lease| drop(lease.state.borrow_and_update()));
            let next = self.all.entitlement(&leases);
            let is_over = matches!(next, Entitlement::Nothing);
            sender.send_replace(next);
            if is_over {
                self.all.metrics.attested(Attestation::Withdrawn);
                return; // whoever listens still sees what was sent last
            }
        }
    }
}

/// What a caller is, and which services that is. Off the thread that serves: directories of users are asked, and files read. That is one file
/// after the other, and nobody waits for it who need not: anybody can run a large one.
async fn attest(all: Arc<Workloads>, caller: Caller) -> Result<(Facts, Vec<ServiceName>), Status> {
    let assigned = all.assigned();
    let assigned = assigned
        .ok_or_else(|| Status::unavailable("the agent has not heard yet whose identities there are; try again"))?;
    let names = matching::needs_names(&assigned);
    let (looking, looked_at) = (&all.looking, caller.clone());
    let facts =
        aside(looking, move || attestor::look(&looked_at, names).map_err(|why| unseen(why, &looked_at))).await??;
    let mut digest = None;
    if matching::needs_digest(&assigned, &facts)
        && let (Some(executable), Some(process)) = (&facts.executable, caller.process)
    {
        let (all, file) = (all.clone(), executable.file);
        digest = match all.digests.known(&file) {
            Some(known) => Some(known),
            None => {
                let reader = all.clone();
                let read = move || reader.digests.read(&file, || attestor::open(&process));
                let read = aside(&all.reading, read).await?;
                read.inspect_err(|error| tracing::info!(%facts, %error, "its file has no digest")).ok()
            }
        };
    }
    let services = matching::services(&assigned, &facts, digest.as_deref());
    Ok((facts, services))
}

/// Does something that blocks, as one of as many as may do so at a time.
async fn aside<T: Send + 'static>(places: &Semaphore, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Status> {
    let ending = || Status::unavailable("workload attestation failed: the agent is ending");
    let _place = places.acquire().await.map_err(|_| ending())?;
    tokio::task::spawn_blocking(work).await.map_err(|_| ending())
}

fn unseen(why: NotSeen, caller: &Caller) -> Status {
    tracing::info!(uid = caller.uid, pid = caller.pid, ?why, "a process that asks cannot be told");
    match why {
        // It is nobody that could be looked at, so it is nobody.
        NotSeen::Gone | NotSeen::OtherUser | NotSeen::Unsteady => no_identity(),
        NotSeen::NotHeld => Status::unavailable("workload attestation failed: who calls is unknown"),
    }
}
