//! An identity is kept alive: renewed at half life, by the present one while that is valid. What becomes of it is told in the log, each
//! thing once.

use std::mem::{Discriminant, discriminant};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, watch};

use crate::ca::{KeyRequest, rfc3339};
use crate::fault::OwnFault;
use crate::live::LiveIdentity;
use crate::machine::MachineKey;
use crate::obtain::{IdentityConfig, IdentityError, Obtained, attest_for, come_back, renew};
use crate::proof::Proof;
use crate::saved::save;
use crate::schedule::{self, Plan};
use crate::svid::Svid;

/// Stands for the end of what has none.
const FAR: Duration = Duration::from_secs(3600);
/// While an identity cannot be renewed, every so many failures are told of again.
const TELL_AGAIN: u32 = 20;

/// How the identity of a workload is doing, for its admin page and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdentityStatus {
    /// The end of the present certificate's life.
    pub not_after: Option<SystemTime>,
    /// When it is to be renewed.
    pub renew_at: Option<SystemTime>,
    /// Renewals since the start.
    pub renewals: u64,
    /// Failed attempts since the start.
    pub failures: u64,
    /// The last failure, until an attempt succeeds.
    pub last_error: Option<String>,
}

/// By what the next identity came.
#[derive(Clone, Copy)]
enum How {
    /// By the one before.
    Renewed,
    /// By a proof as at first contact.
    Joined,
}

/// Runs until it is aborted. `now` asks for a renewal before its time.
pub(crate) async fn keep_renewed(
    mut config: IdentityConfig,
    machine: Option<MachineKey>,
    live: Arc<LiveIdentity>,
    mut issued_at: SystemTime,
    now: Arc<Notify>,
    status: watch::Sender<IdentityStatus>,
) {
    let mut is_saved = true;
    loop {
        let state = live.load_full();
        let (Some(svid), Some(bundle)) = (state.svid(), state.bundle()) else { return };
        let due = schedule::renewal(issued_at, svid.not_after(), rand::random());
        status.send_modify(|status| {
            status.not_after = Some(svid.not_after());
            status.renew_at = Some(due);
        });
        let (plan, begun) = (Plan { begun: SystemTime::now(), due, not_before: svid.not_before() }, Instant::now());
        while !plan.is_due(SystemTime::now(), begun.elapsed()) {
            tokio::select! {
                () = tokio::time::sleep(schedule::nap(SystemTime::now(), due)) => {}
                () = now.notified() => break,
            }
            if !is_saved && save(&config.state_dir, svid, bundle, issued_at).is_ok() {
                tracing::info!(id = %svid.id(), "the identity is saved");
                is_saved = true;
            }
        }
        let (obtained, how) = renew_patiently(&mut config, machine.as_ref(), &live, svid, issued_at, &status).await;
        let written = save(&config.state_dir, &obtained.svid, &obtained.bundle, obtained.issued_at);
        if let Err(error) = &written {
            tracing::warn!(%error, "the renewed identity is in use, but a restart would need the old one or a new join token; trying on");
        }
        is_saved = written.is_ok();
        issued_at = match how {
            How::Renewed => obtained.succeed(&live),
            How::Joined => obtained.publish(&live),
        };
        status.send_modify(|status| {
            status.renewals += 1;
            status.last_error = None;
        });
    }
}

/// Renews by the present identity while it is valid, and after that by the key of this machine or a proof as at first contact, until one of them works.
async fn renew_patiently(
    config: &mut IdentityConfig,
    machine: Option<&MachineKey>,
    live: &Arc<LiveIdentity>,
    svid: &Svid,
    issued_at: SystemTime,
    status: &watch::Sender<IdentityStatus>,
) -> (Obtained, How) {
    let life = svid.not_after().duration_since(issued_at).unwrap_or_default();
    let mut failures = 0;
    let mut told = None;
    let mut last_error = String::new();
    let mut way_back = if machine.is_some() { WayBack::Machine } else { WayBack::none(config) };
    loop {
        let fault = live.fault();
        if let Some(news) = news(&mut told, fault.as_ref()) {
            tell(news, config, way_back, svid, &last_error);
        }
        let worn = matches!(fault, Some(OwnFault::Expired { .. } | OwnFault::Banned { .. }));
        let (attempt, how) = match (way_back, machine, &config.proof) {
            _ if !worn => (renew(config, live, svid.id()).await, How::Renewed),
            (WayBack::Proof, Some(machine), Some(proof)) => (join_again(config, proof, machine).await, How::Joined),
            (_, Some(machine), _) => (return_by(config, machine, live).await, How::Renewed),
            _ => (Err(IdentityError::Expired), How::Renewed), // unless the clock is wrong, and is put right
        };
        let error = match attempt {
            Ok(obtained) => {
                // Whatever was in the way before is over.
                let said = if told.is_some() { "the identity is usable again" } else { "identity renewed" };
                tracing::info!(id = %obtained.svid.id(), serial = obtained.svid.serial(), "{said}");
                return (obtained, how);
            }
            Err(error) => error,
        };
        failures += 1;
        if worn && !error.is_passing() && way_back != WayBack::None {
            let tried = match (way_back, &config.proof) {
                (WayBack::Proof, Some(Proof::Token(_))) => "the join token",
                (WayBack::Proof, Some(Proof::Node(proof))) => proof.name(),
                _ => "the key of this machine",
            };
            if way_back == WayBack::Proof && matches!(config.proof, Some(Proof::Token(_))) {
                config.proof = None;
            }
            // What the machine has from elsewhere may be replaced by something better: it is tried on.
            let is_new = way_back != WayBack::Proof || config.proof.is_none() || last_error != error.to_string();
            way_back = WayBack::none(config);
            if is_new {
                tracing::error!(id = %svid.id(), %error, "{tried} brings no other identity. {}", remedy(config, way_back));
            }
        } else if !worn && (failures == 1 || failures % TELL_AGAIN == 0) {
            let until = rfc3339(svid.not_after());
            tracing::warn!(id = %svid.id(), %error, failures, until, "cannot renew the identity; the present one serves until it expires");
        }
        last_error = error.to_string();
        status.send_modify(|status| {
            status.failures += 1;
            status.last_error = Some(last_error.clone());
        });
        let pause = schedule::backoff(failures, life, rand::random());
        tokio::time::sleep(schedule::until_end(pause, SystemTime::now(), svid.not_after())).await;
    }
}

/// How an identity that has run out may come back by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WayBack {
    /// By the key of this machine.
    Machine,
    /// By the proof that this process was started with: a join token that is not used yet, or what the machine has from elsewhere.
    Proof,
    /// Somebody else renews it.
    Elsewhere,
    /// The control plane has refused; a key that it refused is tried on, because what was banned can be allowed again.
    None,
}

impl WayBack {
    /// What is left without the machine's key.
    fn none(config: &IdentityConfig) -> Self {
        if config.proof.is_some() { Self::Proof } else { Self::None }
    }
}

/// Tells what becomes of an identity that somebody else renews, until it is aborted. One that is taken away is told of by whoever took it.
pub(crate) async fn tell_of_provided(config: IdentityConfig, live: Arc<LiveIdentity>) {
    let (mut changes, mut bans) = (live.subscribe(), live.bans());
    let mut told = None;
    loop {
        let state = live.load_full();
        let mut ends = SystemTime::now() + FAR;
        if let Some(svid) = state.svid() {
            let fault = live.fault();
            if let Some(news) = news(&mut told, fault.as_ref()) {
                tell(news, &config, WayBack::Elsewhere, svid, "");
            }
            let living = !matches!(fault, Some(OwnFault::Expired { .. }));
            ends = if living { svid.not_after() } else { ends };
        }
        let _ = tokio::select! {
            changed = changes.changed() => changed,
            changed = bans.changed() => changed,
            // A moment past its last second, which counts as valid; then every so often, because a clock can be set.
            () = tokio::time::sleep(schedule::nap(SystemTime::now(), ends + Duration::from_secs(1))) => Ok(()),
        };
    }
}

async fn join_again(config: &IdentityConfig, proof: &Proof, machine: &MachineKey) -> Result<Obtained, IdentityError> {
    let request = KeyRequest::new()?;
    attest_for(&config.server, &config.subject, &config.node_id, proof, machine, &request).await
}

async fn return_by(
    config: &IdentityConfig,
    machine: &MachineKey,
    live: &LiveIdentity,
) -> Result<Obtained, IdentityError> {
    let bundle = live.load().bundle().cloned().ok_or(IdentityError::Expired)?;
    come_back(config, bundle, machine, &KeyRequest::new()?).await
}

/// What the log has not been told yet of an identity.
#[derive(Debug, PartialEq, Eq)]
enum News<'a> {
    /// It is of no use.
    Fault(&'a OwnFault),
    /// It is of use again.
    Usable,
}

/// What there is to tell of a fault when `told` is what was told last: each kind of it once.
fn news<'a>(told: &mut Option<Discriminant<OwnFault>>, fault: Option<&'a OwnFault>) -> Option<News<'a>> {
    let kind = fault.map(discriminant);
    if *told == kind {
        return None;
    }
    *told = kind;
    Some(fault.map_or(News::Usable, News::Fault))
}

fn tell(news: News<'_>, config: &IdentityConfig, way_back: WayBack, svid: &Svid, last_error: &str) {
    let id = svid.id();
    let fault = match news {
        News::Usable => return tracing::info!(%id, "the identity is usable again"),
        News::Fault(fault) => fault,
    };
    let (cause, lives) = (fault.cause(), format!("{} to {}", rfc3339(svid.not_before()), rfc3339(svid.not_after())));
    let what = match fault {
        OwnFault::Expired { .. } => {
            format!("the identity has EXPIRED and was not renewed. {}", remedy(config, way_back))
        }
        OwnFault::Banned { reason, .. } => format!(
            "the identity is BANNED: {reason}. It comes back by itself when the ban is lifted (`weft identity unban` on the control plane's machine)"
        ),
        OwnFault::NotYetValid { .. } => {
            "by this machine's clock the identity is not valid yet: was the clock set back?".to_owned()
        }
        OwnFault::BundleExpired { .. } | OwnFault::Missing => fault.to_string(),
    };
    tracing::error!(%id, layer = "identity", cause, lives, last_error, "no new mesh connection is made or taken: {what}");
}

/// What brings an expired identity back.
fn remedy(config: &IdentityConfig, way_back: WayBack) -> String {
    match way_back {
        WayBack::Machine => {
            return "It comes back by itself, by the key of this machine, as soon as the control plane answers"
                .to_owned();
        }
        WayBack::Proof => {
            let what = match &config.proof {
                Some(Proof::Node(proof)) => proof.name(),
                _ => "the join token",
            };
            return format!("{what} that this was started with is tried until the control plane answers")
                .replacen("the ", "The ", 1);
        }
        WayBack::Elsewhere => {
            return "It comes back by itself when the agent of this machine has renewed it; the agent's log says why it has not"
                .to_owned();
        }
        WayBack::None => {}
    }
    format!(
        "It does not come back by itself: with the control plane running, make a join token on its machine with `weft identity \
         join-token {} --state-dir FOLDER` (FOLDER is the server's), and start this again with --join-token",
        config.subject.option()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_of_an_identity_is_told_once_and_so_is_its_end() {
        let expired =
            |ago| OwnFault::Expired { id: "spiffe://acme.internal/ns/prod/sa/web".parse().expect("legal"), ago };
        let mut told = None;
        assert_eq!(news(&mut told, None), None);
        let first = expired(1);
        assert_eq!(news(&mut told, Some(&first)), Some(News::Fault(&first)));
        assert_eq!(news(&mut told, Some(&expired(2))), None, "that it is longer ago is no news");
        assert_eq!(news(&mut told, Some(&OwnFault::Missing)), Some(News::Fault(&OwnFault::Missing)));
        assert_eq!(news(&mut told, None), Some(News::Usable));
        assert_eq!(news(&mut told, None), None);
    }
}
