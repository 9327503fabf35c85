//! One service in use on this machine: its certificate, which all its processes share, is renewed for as long as somebody wants it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, watch};
use weft_identity::ca::rfc3339;
use weft_identity::client::Obtained;
use weft_identity::schedule::{self, Plan};
use weft_identity::tokens::Kept;
use weft_identity::{IdentityError, Svid};
use weft_model::ServiceName;

use crate::metrics::Issue;
use crate::workloads::Workloads;

/// After so long without anybody who listens, a certificate is renewed no more.
pub(crate) const IDLE: Duration = Duration::from_secs(60);
/// Of a failure that goes on, every so many attempts are told of.
const TELL_AGAIN: u32 = 20;
/// Workloads that are to renew at once come within this time, and not all in one moment.
const SPREAD: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct Workload {
    pub(crate) service: ServiceName,
    /// What the first process is that asked for it, for the records of the control plane.
    evidence: String,
    pub(crate) state: watch::Sender<State>,
    pub(crate) tokens: Kept,
    renew: Notify,
}

/// Its certificate, and why there is no newer one.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) svid: Option<Arc<Svid>>,
    pub(crate) error: Option<Arc<str>>,
}

impl Workload {
    pub(crate) fn new(service: ServiceName, evidence: String) -> Arc<Self> {
        let (state, tokens) = (watch::Sender::default(), Kept::default());
        Arc::new(Self { service, evidence, state, tokens, renew: Notify::new() })
    }

    /// Another certificate is wanted, whatever the life of the present one.
    pub(crate) fn renew(&self) {
        self.renew.notify_one();
    }

    /// Gets it, and renews it at half of its life, until nobody has wanted it for a while.
    pub(crate) async fn keep(self: Arc<Self>, all: Arc<Workloads>) {
        let mut issued_at = match all.stored_svid(&self.service) {
            Some((svid, issued_at)) => {
                tracing::info!(service = %self.service, until = rfc3339(svid.not_after()), "using the saved certificate");
                self.state.send_modify(|state| state.svid = Some(Arc::new(svid)));
                Some(issued_at)
            }
            None => None,
        };
        loop {
            let present = self.state.borrow().svid.clone();
            if let (Some(svid), Some(at)) = (&present, issued_at) {
                let due = schedule::renewal(at, svid.not_after(), rand::random());
                if !self.until_due(&all, due, svid.not_before()).await {
                    return;
                }
            }
            let Some(obtained) = self.patiently(&all, present.as_deref(), issued_at).await else { return };
            let Obtained { svid, bundle, issued_at: at } = obtained;
            tracing::debug!(service = %self.service, serial = svid.serial(), "got a certificate");
            let svid = Arc::new(svid);
            all.keep_svid(&self.service, svid.clone(), bundle, at);
            issued_at = Some(at);
            self.state.send_replace(State { svid: Some(svid), error: None });
        }
    }

    /// Waits until it is time for another one; `false` if nobody wants one any more.
    async fn until_due(&self, all: &Workloads, due: SystemTime, not_before: SystemTime) -> bool {
        let (plan, begun) = (Plan { begun: SystemTime::now(), due, not_before }, Instant::now());
        let mut wanted = Instant::now();
        while !plan.is_due(SystemTime::now(), begun.elapsed()) {
            let nap = schedule::nap(SystemTime::now(), due).min(IDLE / 2);
            tokio::select! {
                () = tokio::time::sleep(nap) => {}
                () = self.renew.notified() => {
                    tokio::time::sleep(SPREAD.mul_f64(rand::random())).await;
                    return true;
                }
            }
            if !self.is_wanted(all, &mut wanted) {
                return false;
            }
        }
        true
    }

    /// Tries until it works; `None` if nobody wants it any more.
    async fn patiently(
        &self,
        all: &Workloads,
        present: Option<&Svid>,
        issued_at: Option<SystemTime>,
    ) -> Option<Obtained> {
        let life = match (present, issued_at) {
            (Some(svid), Some(at)) => svid.not_after().duration_since(at).unwrap_or_default(),
            _ => all.life(&self.service),
        };
        let (mut failures, mut wanted) = (0, Instant::now());
        let mut changes = all.on_behalf();
        loop {
            let source = changes.borrow_and_update().clone();
            let attempt = match source {
                Some(on_behalf) => on_behalf.svid(&self.service, &self.evidence).await,
                None => Err(IdentityError::Unavailable("the agent has no identity of its own yet".into())),
            };
            let error = match attempt {
                Ok(obtained) => {
                    all.metrics.asked(Issue::X509, true);
                    if failures > 1 {
                        tracing::info!(service = %self.service, failures, "the control plane issues again");
                    }
                    return Some(obtained);
                }
                Err(error) => error,
            };
            all.metrics.asked(Issue::X509, false);
            failures += 1;
            if failures == 1 || failures % TELL_AGAIN == 0 {
                let until = present.map(|svid| rfc3339(svid.not_after()));
                tracing::warn!(service = %self.service, %error, failures, until, "cannot get a certificate; the present one, if any, serves until it expires");
            }
            let why: Arc<str> = error.to_string().into();
            self.state.send_modify(|state| state.error = Some(why));
            let pause = schedule::backoff(failures, life, rand::random());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // The agent has an identity again: there is somebody to ask as.
                changed = changes.changed() => if changed.is_err() { return None },
            }
            if !self.is_wanted(all, &mut wanted) {
                return None;
            }
        }
    }

    /// Whether somebody listens, or did a moment ago; else it is taken out.
    fn is_wanted(&self, all: &Workloads, wanted: &mut Instant) -> bool {
        if self.state.receiver_count() > 0 {
            *wanted = Instant::now();
        }
        wanted.elapsed() < IDLE || !all.forget(self)
    }
}
