//! Certificates of services in use are renewed for as long as somebody wants them.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;
use weft_identity::ca::rfc3339;
use weft_identity::client::Obtained;
use weft_identity::schedule::{self, Plan};
use weft_identity::{IdentityError, Svid};

use crate::metrics::Issue;
use crate::workload::{State, Workload};
use crate::workloads::Workloads;

/// After so long without anybody who listens, a certificate is renewed no more.
const IDLE: Duration = Duration::from_secs(60);
/// Of a failure that goes on, every so many attempts are told of.
const TELL_AGAIN: u32 = 20;
/// Workloads that are to renew at once come within this time, and not all in one moment.
const SPREAD: Duration = Duration::from_secs(1);

/// Keeps each service that comes into use.
pub(crate) async fn keep_all(all: Arc<Workloads>, mut new: mpsc::UnboundedReceiver<Arc<Workload>>) {
    while let Some(workload) = new.recv().await {
        tokio::spawn(keep(all.clone(), workload));
    }
}

/// Gets it, and renews it at half of its life, until nobody has wanted it for a while.
async fn keep(all: Arc<Workloads>, workload: Arc<Workload>) {
    let mut issued_at = match all.stored_svid(&workload.service) {
        Some((svid, issued_at)) => {
            tracing::info!(service = %workload.service, until = rfc3339(svid.not_after()), "using the saved certificate");
            workload.state.send_modify(|state| state.svid = Some(Arc::new(svid)));
            Some(issued_at)
        }
        None => None,
    };
    loop {
        let present = workload.state.borrow().svid.clone();
        if let (Some(svid), Some(at)) = (&present, issued_at) {
            let due = schedule::renewal(at, svid.not_after(), rand::random());
            if !until_due(&all, &workload, due, svid.not_before()).await {
                return;
            }
        }
        let Some(obtained) = patiently(&all, &workload, present.as_deref(), issued_at).await else { return };
        let Obtained { svid, bundle, issued_at: at } = obtained;
        tracing::debug!(service = %workload.service, serial = svid.serial(), "got a certificate");
        let svid = Arc::new(svid);
        all.keep_svid(&workload.service, svid.clone(), bundle, at);
        issued_at = Some(at);
        workload.state.send_replace(State { svid: Some(svid), error: None });
    }
}

/// Waits until it is time for another one; `false` if nobody wants one any more.
async fn until_due(all: &Workloads, workload: &Workload, due: SystemTime, not_before: SystemTime) -> bool {
    let (plan, begun) = (Plan { begun: SystemTime::now(), due, not_before }, Instant::now());
    let mut wanted = Instant::now();
    while !plan.is_due(SystemTime::now(), begun.elapsed()) {
        let nap = schedule::nap(SystemTime::now(), due).min(IDLE / 2);
        tokio::select! {
            () = tokio::time::sleep(nap) => {}
            () = workload.renew.notified() => {
                tokio::time::sleep(SPREAD.mul_f64(rand::random())).await;
                return true;
            }
        }
        if !is_wanted(all, workload, &mut wanted) {
            return false;
        }
    }
    true
}

/// Tries until it works; `None` if nobody wants it any more.
async fn patiently(
    all: &Workloads,
    workload: &Workload,
    present: Option<&Svid>,
    issued_at: Option<SystemTime>,
) -> Option<Obtained> {
    let life = match (present, issued_at) {
        (Some(svid), Some(at)) => svid.not_after().duration_since(at).unwrap_or_default(),
        _ => all.life(&workload.service),
    };
    let (mut failures, mut wanted) = (0, Instant::now());
    let mut changes = all.on_behalf();
    loop {
        let source = changes.borrow_and_update().clone();
        let attempt = match source {
            Some(on_behalf) => on_behalf.svid(&workload.service, &workload.evidence).await,
            None => Err(IdentityError::Unavailable("the agent has no identity of its own yet".into())),
        };
        let error = match attempt {
            Ok(obtained) => {
                all.metrics.asked(Issue::X509, true);
                if failures > 1 {
                    tracing::info!(service = %workload.service, failures, "the control plane issues again");
                }
                return Some(obtained);
            }
            Err(error) => error,
        };
        all.metrics.asked(Issue::X509, false);
        failures += 1;
        if failures == 1 || failures % TELL_AGAIN == 0 {
            let until = present.map(|svid| rfc3339(svid.not_after()));
            tracing::warn!(service = %workload.service, %error, failures, until, "cannot get a certificate; the present one, if any, serves until it expires");
        }
        let why: Arc<str> = error.to_string().into();
        workload.state.send_modify(|state| state.error = Some(why));
        let pause = schedule::backoff(failures, life, rand::random());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // The agent has an identity again: there is somebody to ask as.
            changed = changes.changed() => if changed.is_err() { return None },
        }
        if !is_wanted(all, workload, &mut wanted) {
            return None;
        }
    }
}

/// Whether somebody listens, or did a moment ago; else it is taken out.
fn is_wanted(all: &Workloads, workload: &Workload, wanted: &mut Instant) -> bool {
    if workload.state.receiver_count() > 0 {
        *wanted = Instant::now();
    }
    wanted.elapsed() < IDLE || !all.forget(workload)
}
