//! What the mesh vouches with reaches a workload when it changes, and not only with the next certificate: a stream from the control plane
//! brings each bundle, and the workload says when that is in force. No root signs before everybody has said so.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use crate::bans::Bans;
use crate::connect::connect;
use crate::fault::OwnFault;
use crate::federated::Federated;
use crate::live::LiveIdentity;
use crate::obtain::{IdentityConfig, IdentityError, verify_own};
use crate::proto;
use crate::proto::identity_client::IdentityClient;
use crate::saved::save_bundle;
use crate::schedule;
use crate::wire::{bans_from_proto, bundle_from_proto, federated_from_proto};

/// Stands in for the life of a certificate: back-off goes up to 5 s.
const LIFE: Duration = Duration::from_secs(100);
/// Workloads that are to renew at once come within this time, and not all in one moment.
const SPREAD: Duration = Duration::from_secs(1);

/// Follows until it is aborted. `renew` is notified when the present certificate is to be replaced at once.
pub(crate) async fn follow(config: IdentityConfig, live: Arc<LiveIdentity>, renew: Arc<Notify>) {
    let mut failures = 0;
    loop {
        live.unexpired().await;
        let mut came = false;
        match follow_once(&config, &live, &renew, &mut came).await {
            Ok(()) => tracing::debug!("the control plane ended the stream of bundles"),
            Err(error) if failures == 0 || came => {
                tracing::info!(%error, "the control plane says nothing of new roots for now; trying on");
            }
            Err(error) => tracing::debug!(%error, failures, "still nothing of new roots"),
        }
        failures = if came { 1 } else { failures + 1 };
        tokio::time::sleep(schedule::backoff(failures, LIFE, rand::random())).await;
    }
}

async fn follow_once(
    config: &IdentityConfig,
    live: &Arc<LiveIdentity>,
    renew: &Notify,
    came: &mut bool,
) -> Result<(), IdentityError> {
    let channel = connect(&config.server, live).await?;
    let (say, said) = mpsc::channel(1);
    let held = |sequence| proto::Held { node_id: config.node_id.clone(), sequence };
    let in_force = live.load().bundle().map_or(0, |bundle| bundle.sequence());
    let _ = say.send(held(in_force)).await; // the receiver is here
    let refused = |status| IdentityError::from_status(&config.subject, &status);
    let mut news = IdentityClient::new(channel).follow(ReceiverStream::new(said)).await.map_err(refused)?.into_inner();
    // A bundle that is not in force everywhere yet does not keep the next one from being heard.
    let mut owed = None;
    loop {
        let trust = tokio::select! {
            () = live.in_force(), if owed.is_some() => {
                let sequence = owed.take().unwrap_or_default();
                if say.send(held(sequence)).await.is_err() {
                    return Ok(());
                }
                continue;
            }
            trust = news.message() => trust.map_err(refused)?,
        };
        let Some(trust) = trust else { return Ok(()) };
        *came = true;
        if let Some(bans) = trust.bans {
            take_over_bans(bans_from_proto(bans), &config.state_dir, live, renew);
        }
        if let Some(federation) = trust.federation {
            take_over_federated(federated_from_proto(federation), &config.state_dir, live);
        }
        if let Some(bundle) = trust.bundle {
            owed = Some(take_over(bundle, &config.state_dir, live, renew).map_err(IdentityError::Unusable)?);
        }
        if trust.renew {
            tracing::warn!("the root that signed this identity is no longer trusted: getting another now");
            tokio::time::sleep(SPREAD.mul_f64(rand::random())).await;
            renew.notify_one();
        }
    }
}

/// Puts bans in force, those of this identity itself too.
fn take_over_bans(bans: Bans, state_dir: &Path, live: &LiveIdentity, renew: &Notify) {
    if **live.bans().borrow() == bans {
        return;
    }
    if let Err(error) = bans.save(state_dir) {
        tracing::warn!(%error, "who is banned now is in force, but was not saved: a restart would begin with those before");
    }
    tracing::info!(bans = bans.len(), "who is banned has changed");
    live.set_bans(bans);
    if let Some(OwnFault::Banned { .. }) = live.fault() {
        renew.notify_one(); // it says so, and tries to come back
    }
}

/// Puts the bundles of other trust domains in force, and those of before out of it.
fn take_over_federated(federated: Federated, state_dir: &Path, live: &LiveIdentity) {
    if **live.load().federated() == federated {
        return;
    }
    if let Err(error) = federated.save(state_dir) {
        tracing::warn!(%error, "other trust domains' bundles are in force, but were not saved: a restart would begin with those before");
    }
    let domains = federated.iter().map(|bundle| bundle.trust_domain().to_string()).collect::<Vec<_>>().join(", ");
    tracing::info!(domains, "the bundles of other trust domains have changed");
    live.set_federated(federated);
}

/// Puts a bundle in force, unless it is older than the present one; returns the sequence of the one in force.
fn take_over(bundle: proto::Bundle, state_dir: &Path, live: &LiveIdentity, renew: &Notify) -> Result<u64, String> {
    let bundle = bundle_from_proto(bundle)?;
    let state = live.load_full();
    let (Some(svid), Some(present)) = (state.svid(), state.bundle()) else {
        return Err("there is no identity to go with it".into());
    };
    if bundle.trust_domain() != present.trust_domain() {
        return Err(format!("it is of trust domain {}, not of {}", bundle.trust_domain(), present.trust_domain()));
    }
    if bundle.sequence() < present.sequence()
        || bundle.sequence() == present.sequence() && bundle.roots() == present.roots() && bundle.jwt() == present.jwt()
    {
        return Ok(present.sequence());
    }
    let sequence = bundle.sequence();
    if let Err(why) = verify_own(svid, &bundle) {
        tracing::warn!(%why, "by the new bundle this identity is of no use: getting another now");
        renew.notify_one();
    }
    // Where somebody else keeps the identity, nothing is saved here.
    if let Err(error) = save_bundle(state_dir, &bundle)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, "the new bundle is in force, but a restart would begin with the one before");
    }
    tracing::info!(
        sequence,
        roots = bundle.roots().len(),
        jwt_keys = bundle.jwt().keys().len(),
        "a new trust bundle is in force"
    );
    live.set_bundle(bundle);
    Ok(sequence)
}
