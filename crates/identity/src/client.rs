//! The workload's side: gets an identity, keeps it, renews it.
//!
//! A saved identity that is still valid is used at once, whether the control plane answers or not. One that has run out is replaced by
//! the key of this machine, which was enrolled with the first; without either, the join token, or what this machine has from elsewhere, is
//! exchanged for the first. From then on a
//! task renews at half life; while the control plane is away the old identity serves until it expires, and after that nothing does until
//! it is back: connections are refused on this side, with a log line that says why.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::bans::Bans;
use crate::ca::{KeyRequest, rfc3339};
use crate::certificate::hex;
use crate::connect::{connect, is_pinned};
use crate::federated::Federated;
use crate::follow::follow;
use crate::live::LiveIdentity;
use crate::machine::MachineKey;
pub use crate::obtain::{IdentityConfig, IdentityError, Obtained, attest};
use crate::obtain::{attest_for, come_back, verify_own};
use crate::on_behalf::OnBehalf;
use crate::proof::Proof;
use crate::proto;
use crate::proto::identity_client::IdentityClient;
pub use crate::renewal::IdentityStatus;
use crate::renewal::{keep_renewed, tell_of_provided};
use crate::saved::{Saved, save};
use crate::schedule;
use crate::svid::TrustBundle;
use crate::tokens::Tokens;
use crate::wire::Withdrawal;

/// Stands in for the life of a certificate while there is none yet: back-off goes up to 5 s.
const NO_LIFE_YET: Duration = Duration::from_secs(100);

/// A workload's identity, kept renewed until this is dropped.
#[derive(Debug)]
pub struct Identity {
    config: IdentityConfig,
    live: Arc<LiveIdentity>,
    status: watch::Receiver<IdentityStatus>,
    tasks: Vec<AbortHandle>,
}

impl Identity {
    /// Waits until there is an identity: at once from a saved one, else from the control plane, as long as it takes to reach it.
    ///
    /// # Errors
    /// When waiting would not help: no proof, or the control plane refuses it.
    pub async fn start(config: IdentityConfig) -> Result<Self, IdentityError> {
        let live = LiveIdentity::empty();
        live.set_bans(Bans::load(&config.state_dir));
        live.set_federated(Federated::load(&config.state_dir));
        let mut renewal = config.clone();
        let issued_at = match before(&config) {
            Before::Usable(saved) => {
                tracing::info!(id = %saved.svid.id(), not_after = rfc3339(saved.svid.not_after()), "using the saved identity");
                live.set(saved.svid, saved.bundle);
                saved.issued_at
            }
            Before::Worn(bundle) => {
                let obtained = return_or_attest(&config, bundle, &mut renewal.proof).await?;
                keep(&config, obtained, &live)?
            }
            Before::Nothing => {
                let obtained = attest_patiently(&config).await?;
                forget_token(&mut renewal.proof);
                keep(&config, obtained, &live)?
            }
        };
        // Whoever may attest anew has a key to be enrolled with.
        let machine = match &renewal.proof {
            Some(_) => MachineKey::open(&config.state_dir).map(Some),
            None => MachineKey::load(&config.state_dir),
        };
        let machine = machine.map_err(IdentityError::Machine)?;
        let (status, receiver) = watch::channel(IdentityStatus::default());
        let renew = Arc::new(Notify::new());
        let following = tokio::spawn(follow(config.clone(), live.clone(), renew.clone()));
        let renewing = tokio::spawn(keep_renewed(renewal, machine, live.clone(), issued_at, renew, status));
        let tasks = vec![following.abort_handle(), renewing.abort_handle()];
        Ok(Self { config, live, status: receiver, tasks })
    }

    /// One that somebody else gets, renews and puts into `live`. Of the control plane it hears what every workload does: bundles and bans.
    pub fn provided(config: IdentityConfig, live: Arc<LiveIdentity>) -> Self {
        live.set_bans(Bans::load(&config.state_dir));
        let (_, status) = watch::channel(IdentityStatus::default());
        let following = tokio::spawn(follow(config.clone(), live.clone(), Arc::new(Notify::new())));
        let telling = tokio::spawn(tell_of_provided(config.clone(), live.clone()));
        let tasks = vec![following.abort_handle(), telling.abort_handle()];
        Self { config, live, status, tasks }
    }

    /// For TLS configurations and everything else that must know who this process is.
    pub fn live(&self) -> &Arc<LiveIdentity> {
        &self.live
    }

    /// JWT-SVIDs for this workload.
    pub fn tokens(&self) -> Tokens {
        Tokens::new(self.config.clone(), self.live.clone())
    }

    /// What an agent gets for others.
    pub fn on_behalf(&self) -> OnBehalf {
        OnBehalf::new(&self.config, self.live.clone())
    }

    /// Takes the endpoint that this workload registered as `node_id` out of the mesh, before a stop. Answers when its callers have
    /// acknowledged that or the control plane's bound has passed; give it a bound of your own for a control plane that is away.
    pub async fn withdraw(&self, node_id: &str) -> Result<Withdrawal, IdentityError> {
        let channel = connect(&self.config.server, &self.live).await?;
        let answer =
            IdentityClient::new(channel).withdraw(proto::WithdrawRequest { node_id: node_id.to_owned() }).await;
        let answer = answer.map_err(|status| IdentityError::from_status(&self.config.subject, &status))?.into_inner();
        Ok(Withdrawal { acknowledged: answer.acknowledged, waiting: answer.waiting })
    }

    /// How it is doing, now and after each change.
    pub fn status(&self) -> watch::Receiver<IdentityStatus> {
        self.status.clone()
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// What there is from an earlier run.
enum Before {
    /// An identity that is this service's, valid, and of the mesh that the join token (if any) is for.
    Usable(Box<Saved>),
    /// One that is not valid any more. The machine may come back by its key, and knows the control plane by this bundle.
    Worn(Arc<TrustBundle>),
    /// Nothing of use.
    Nothing,
}

fn before(config: &IdentityConfig) -> Before {
    let saved = match Saved::load(&config.state_dir) {
        Ok(Some(saved)) => saved,
        Ok(None) => return Before::Nothing,
        Err(why) => {
            tracing::warn!(why, "ignoring the saved identity");
            return Before::Nothing;
        }
    };
    let ignore = |why: String| {
        tracing::warn!(why, id = %saved.svid.id(), "ignoring the saved identity");
        Before::Nothing
    };
    if saved.svid.id().subject().as_ref() != Some(&config.subject) {
        return ignore(format!("it is not of {}", config.subject));
    }
    if let Some(Proof::Token(token)) = &config.proof
        && !saved.pins.contains(&hex(&token.pin()))
        && !saved.bundle.roots().iter().any(|root| is_pinned(root, &token.pin()))
    {
        return ignore("the join token is for another mesh".into());
    }
    match verify_own(&saved.svid, &saved.bundle) {
        Ok(()) => Before::Usable(Box::new(saved)),
        Err(why) => {
            tracing::warn!(%why, id = %saved.svid.id(), "the saved identity is of no use any more");
            Before::Worn(Arc::new(saved.bundle))
        }
    }
}

/// Saves an identity that was just obtained, and puts it in force.
fn keep(config: &IdentityConfig, obtained: Obtained, live: &LiveIdentity) -> Result<SystemTime, IdentityError> {
    let written = save(&config.state_dir, &obtained.svid, &obtained.bundle, obtained.issued_at);
    written.map_err(|source| IdentityError::Save { folder: config.state_dir.clone(), source })?;
    Ok(obtained.publish(live))
}

/// A join token that was tried is used up: the server would take another attempt for that of a thief. Other proofs stay good.
fn forget_token(proof: &mut Option<Proof>) {
    if matches!(proof, Some(Proof::Token(_))) {
        *proof = None;
    }
}

/// Comes back by the key of this machine, or, where that brings nothing, attests anew.
async fn return_or_attest(
    config: &IdentityConfig,
    bundle: Arc<TrustBundle>,
    proof: &mut Option<Proof>,
) -> Result<Obtained, IdentityError> {
    let machine = MachineKey::load(&config.state_dir).map_err(IdentityError::Machine)?;
    if let Some(machine) = machine {
        let request = KeyRequest::new()?;
        match patiently(config, By::Machine(&machine, bundle), &request).await {
            Err(error) if config.proof.is_some() => {
                tracing::warn!(%error, machine = machine.id(), "this machine's key brings no identity; attesting anew");
            }
            result => {
                if let Ok(obtained) = &result {
                    tracing::info!(id = %obtained.svid.id(), machine = machine.id(), "came back by the key of this machine");
                }
                return result;
            }
        }
    }
    forget_token(proof);
    attest_patiently(config).await
}

/// Attests until it works or cannot work. One key for all attempts: the server answers the same key again if an answer was lost.
async fn attest_patiently(config: &IdentityConfig) -> Result<Obtained, IdentityError> {
    let proof = config.proof.as_ref().ok_or_else(|| IdentityError::NoJoinToken {
        subject: config.subject.clone(),
        folder: config.state_dir.clone(),
    })?;
    let machine = MachineKey::open(&config.state_dir).map_err(IdentityError::Machine)?;
    let request = KeyRequest::new()?;
    let obtained = patiently(config, By::Proof(proof, &machine), &request).await?;
    tracing::info!(id = %obtained.svid.id(), serial = obtained.svid.serial(), machine = machine.id(), "attested");
    Ok(obtained)
}

/// By what a workload proves which one it is.
enum By<'a> {
    /// A join token or what the machine has from elsewhere, with which the machine is enrolled.
    Proof(&'a Proof, &'a MachineKey),
    /// The machine, which knows the control plane by this bundle.
    Machine(&'a MachineKey, Arc<TrustBundle>),
}

/// Tries until it works or cannot work.
async fn patiently(config: &IdentityConfig, by: By<'_>, request: &KeyRequest) -> Result<Obtained, IdentityError> {
    let mut failures = 0;
    loop {
        let attempt = match &by {
            By::Proof(proof, machine) => {
                attest_for(&config.server, &config.subject, &config.node_id, proof, machine, request).await
            }
            By::Machine(machine, bundle) => come_back(config, bundle.clone(), machine, request).await,
        };
        match attempt {
            Err(error) if error.is_passing() => {
                failures += 1;
                if failures == 1 {
                    tracing::warn!(%error, "cannot attest yet; trying on");
                }
                tokio::time::sleep(schedule::backoff(failures, NO_LIFE_YET, rand::random())).await;
            }
            result => return result,
        }
    }
}
