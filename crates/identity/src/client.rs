//! The workload's side: gets an identity, keeps it, renews it.
//!
//! A saved identity that is still valid is used at once, whether the control plane answers or not. Without one, the join token is
//! exchanged for the first. From then on a task renews at half life; while the control plane is away the old identity serves until
//! it expires, and after that nothing does: connections are refused on this side, with a log line that says why.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tonic::{Code, Status};
use weft_model::{ServiceName, SpiffeId};

use crate::ca::{CaError, KeyRequest, rfc3339};
use crate::connect::{ConnectError, connect, connect_pinned, is_pinned};
use crate::live::{IdentityState, LiveIdentity, Svid, SvidError, TrustBundle};
use crate::peer::{self, PeerError, Role};
use crate::proto;
use crate::proto::identity_client::IdentityClient;
use crate::saved::Saved;
use crate::schedule::{self, Plan};
use crate::service::{Withdrawal, from_proto};
use crate::token::JoinToken;

/// How long the control plane may take to answer one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Stands in for the life of a certificate while there is none yet: back-off goes up to 5 s.
const NO_LIFE_YET: Duration = Duration::from_secs(100);

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Neither a saved identity nor a join token.
    #[error("{service} has no saved identity in {} and no join token; make one and give it with --join-token", .folder.display())]
    NoJoinToken {
        /// Who starts.
        service: ServiceName,
        /// Where its identity would be saved.
        folder: PathBuf,
    },
    /// The control plane cannot be reached; trying again may help.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The control plane said no.
    #[error("the control plane refused {service}: {why}")]
    Refused {
        /// For whom.
        service: ServiceName,
        /// Its own words.
        why: String,
    },
    /// The control plane cannot answer at present; trying again may help.
    #[error("the control plane did not issue an identity: {0}")]
    Unavailable(String),
    /// The control plane issued something else than was asked for.
    #[error("the control plane issued an identity that this workload cannot use: {0}")]
    Unusable(String),
    /// There is nothing left to prove by who this is.
    #[error("the identity has expired; start this workload again with a new join token")]
    Expired,
    /// The key could not be made.
    #[error(transparent)]
    Key(#[from] CaError),
    /// The identity could not be saved.
    #[error("cannot save the identity to {}: {source}", .folder.display())]
    Save {
        /// Where.
        folder: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl IdentityError {
    /// Whether the same attempt may succeed later.
    fn is_passing(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Unavailable(_))
    }

    fn from_status(service: &ServiceName, status: &Status) -> Self {
        match status.code() {
            Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented => {
                Self::Refused { service: service.clone(), why: status.message().to_owned() }
            }
            _ => Self::Unavailable(match std::error::Error::source(status) {
                Some(source) => crate::connect::root_cause(source),
                None => status.message().to_owned(),
            }),
        }
    }
}

impl From<SvidError> for IdentityError {
    fn from(error: SvidError) -> Self {
        Self::Unusable(error.to_string())
    }
}

impl From<PeerError> for IdentityError {
    fn from(error: PeerError) -> Self {
        Self::Unusable(error.to_string())
    }
}

/// What a workload needs to get its identity.
#[derive(Clone, Debug)]
pub struct IdentityConfig {
    /// The control plane, `host:port`.
    pub server: String,
    /// Which service this is.
    pub service: ServiceName,
    /// For the first time, or when the saved identity has expired.
    pub join_token: Option<JoinToken>,
    /// Where the identity is kept: a folder of this workload's own, made with mode 0700.
    pub state_dir: PathBuf,
}

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

/// A workload's identity, kept renewed until this is dropped.
#[derive(Debug)]
pub struct Identity {
    config: IdentityConfig,
    live: Arc<LiveIdentity>,
    status: watch::Receiver<IdentityStatus>,
    task: AbortHandle,
}

impl Identity {
    /// Waits until there is an identity: at once from a saved one, else from the control plane, as long as it takes to reach it.
    ///
    /// # Errors
    /// When waiting would not help: no join token, or the control plane refuses it.
    pub async fn start(config: IdentityConfig) -> Result<Self, IdentityError> {
        let live = LiveIdentity::empty();
        let mut renewal = config.clone();
        let issued_at = match saved(&config) {
            Some(saved) => {
                tracing::info!(id = %saved.svid.id(), not_after = rfc3339(saved.svid.not_after()), "using the saved identity");
                live.set(saved.svid, saved.bundle);
                saved.issued_at
            }
            None => {
                let obtained = attest_patiently(&config).await?;
                save(&config, &obtained.svid, &obtained.bundle, obtained.issued_at)?;
                // It is used up: the server would take another attempt for that of a thief.
                renewal.join_token = None;
                obtained.publish(&live)
            }
        };
        let (status, receiver) = watch::channel(IdentityStatus::default());
        let task = tokio::spawn(keep_renewed(renewal, live.clone(), issued_at, status)).abort_handle();
        Ok(Self { config, live, status: receiver, task })
    }

    /// For TLS configurations and everything else that must know who this process is.
    pub fn live(&self) -> &Arc<LiveIdentity> {
        &self.live
    }

    /// Takes the endpoint that this workload registered as `node_id` out of the mesh, before a stop. Answers when its callers have
    /// acknowledged that or the control plane's bound has passed; give it a bound of your own for a control plane that is away.
    pub async fn withdraw(&self, node_id: &str) -> Result<Withdrawal, IdentityError> {
        let channel = connect(&self.config.server, &self.live).await?;
        let answer =
            IdentityClient::new(channel).withdraw(proto::WithdrawRequest { node_id: node_id.to_owned() }).await;
        let answer = answer.map_err(|status| IdentityError::from_status(&self.config.service, &status))?.into_inner();
        Ok(Withdrawal { acknowledged: answer.acknowledged, waiting: answer.waiting })
    }

    /// How it is doing, now and after each change.
    pub fn status(&self) -> watch::Receiver<IdentityStatus> {
        self.status.clone()
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An identity fresh from the control plane, checked.
#[derive(Debug)]
pub struct Obtained {
    /// Certificate and key.
    pub svid: Svid,
    /// What to verify peers by.
    pub bundle: TrustBundle,
    /// When it came.
    pub issued_at: SystemTime,
}

impl Obtained {
    fn publish(self, live: &LiveIdentity) -> SystemTime {
        live.set(self.svid, self.bundle);
        self.issued_at
    }
}

/// Exchanges a join token for an identity, once. `Identity::start` is this with patience, saving and renewal.
pub async fn attest(server: &str, service: &ServiceName, token: &JoinToken) -> Result<Obtained, IdentityError> {
    attest_for(server, service, token, &KeyRequest::new()?).await
}

async fn attest_for(
    server: &str,
    service: &ServiceName,
    token: &JoinToken,
    request: &KeyRequest,
) -> Result<Obtained, IdentityError> {
    let (channel, root) = connect_pinned(server, token.pin()).await?;
    let mut call = tonic::Request::new(proto::AttestRequest {
        join_token: token.text(),
        service: service.to_string(),
        csr: request.csr.clone(),
    });
    call.set_timeout(CALL_TIMEOUT);
    let answer = IdentityClient::new(channel).attest(call).await;
    let answer = answer.map_err(|status| IdentityError::from_status(service, &status))?.into_inner();
    let obtained = check(answer, request, &SpiffeId::for_service(root.trust_domain(), service))?;
    if !obtained.bundle.roots().iter().any(|root| is_pinned(root, &token.pin())) {
        return Err(IdentityError::Unusable("its bundle lacks the root that the join token names".into()));
    }
    Ok(obtained)
}

async fn renew(config: &IdentityConfig, live: &Arc<LiveIdentity>, id: &SpiffeId) -> Result<Obtained, IdentityError> {
    let request = KeyRequest::new()?;
    let channel = connect(&config.server, live).await?;
    let mut call = tonic::Request::new(proto::RenewRequest { csr: request.csr.clone() });
    call.set_timeout(CALL_TIMEOUT);
    let answer = IdentityClient::new(channel).renew(call).await;
    let answer = answer.map_err(|status| IdentityError::from_status(&config.service, &status))?.into_inner();
    check(answer, &request, id)
}

/// A workload does not take what its peers would refuse: the answer must be for its key and its name, and verify.
fn check(answer: proto::SvidResponse, request: &KeyRequest, id: &SpiffeId) -> Result<Obtained, IdentityError> {
    let bundle = answer.bundle.ok_or_else(|| IdentityError::Unusable("it came without a bundle".into()))?;
    let bundle = from_proto(bundle).map_err(IdentityError::Unusable)?;
    let svid = Svid::from_der(answer.chain.into_iter().map(CertificateDer::from).collect(), &request.key)?;
    if svid.id() != id {
        return Err(IdentityError::Unusable(format!("it is for {}, not for {id}", svid.id())));
    }
    verify_own(&svid, &bundle)?;
    Ok(Obtained { svid, bundle, issued_at: SystemTime::now() })
}

fn verify_own(svid: &Svid, bundle: &TrustBundle) -> Result<(), PeerError> {
    let state = IdentityState::trusting(bundle.clone());
    let [leaf, rest @ ..] = svid.chain() else { return Err(PeerError::NoCertificate) };
    peer::verify(&state, leaf, rest, UnixTime::now(), Role::Server)?;
    peer::verify(&state, leaf, rest, UnixTime::now(), Role::Client).map(drop)
}

/// The saved identity, if it is this service's, valid, and of the mesh that the join token (if any) is for.
fn saved(config: &IdentityConfig) -> Option<Saved> {
    let saved = match Saved::load(&config.state_dir) {
        Ok(saved) => saved?,
        Err(why) => {
            tracing::warn!(why, "ignoring the saved identity");
            return None;
        }
    };
    let refuse = |why: String| {
        tracing::warn!(why, id = %saved.svid.id(), "ignoring the saved identity");
        None
    };
    if saved.svid.id().service().as_ref() != Some(&config.service) {
        return refuse(format!("it is not of {}", config.service));
    }
    if let Some(token) = &config.join_token
        && !saved.bundle.roots().iter().any(|root| is_pinned(root, &token.pin()))
    {
        return refuse("the join token is for another mesh".into());
    }
    match verify_own(&saved.svid, &saved.bundle) {
        Ok(()) => Some(saved),
        Err(why) => refuse(why.to_string()),
    }
}

fn save(
    config: &IdentityConfig,
    svid: &Svid,
    bundle: &TrustBundle,
    issued_at: SystemTime,
) -> Result<(), IdentityError> {
    Saved::save(&config.state_dir, svid, bundle, issued_at)
        .map_err(|source| IdentityError::Save { folder: config.state_dir.clone(), source })
}

/// Attests until it works or cannot work. One key for all attempts: the server answers the same key again if an answer was lost.
async fn attest_patiently(config: &IdentityConfig) -> Result<Obtained, IdentityError> {
    let token = config.join_token.as_ref().ok_or_else(|| IdentityError::NoJoinToken {
        service: config.service.clone(),
        folder: config.state_dir.clone(),
    })?;
    let request = KeyRequest::new()?;
    let mut failures = 0;
    loop {
        match attest_for(&config.server, &config.service, token, &request).await {
            Ok(obtained) => {
                tracing::info!(id = %obtained.svid.id(), serial = obtained.svid.serial(), "attested");
                return Ok(obtained);
            }
            Err(error) if error.is_passing() => {
                failures += 1;
                if failures == 1 {
                    tracing::warn!(%error, "cannot attest yet; trying on");
                }
                tokio::time::sleep(schedule::backoff(failures, NO_LIFE_YET, rand::random())).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Runs until it is aborted.
async fn keep_renewed(
    config: IdentityConfig,
    live: Arc<LiveIdentity>,
    mut issued_at: SystemTime,
    status: watch::Sender<IdentityStatus>,
) {
    let mut is_saved = true;
    loop {
        let state = live.load_full();
        let (Some(svid), Some(bundle)) = (state.svid(), state.bundle()) else { return };
        let (id, not_after) = (svid.id().clone(), svid.not_after());
        let life = not_after.duration_since(issued_at).unwrap_or_default();
        let due = schedule::renewal(issued_at, not_after, rand::random());
        status.send_modify(|status| {
            status.not_after = Some(not_after);
            status.renew_at = Some(due);
        });
        let (plan, begun) = (Plan { begun: SystemTime::now(), due, not_before: svid.not_before() }, Instant::now());
        while !plan.is_due(SystemTime::now(), begun.elapsed()) {
            tokio::time::sleep(schedule::nap(SystemTime::now(), due)).await;
            if !is_saved && save(&config, svid, bundle, issued_at).is_ok() {
                tracing::info!(%id, "the identity is saved");
                is_saved = true;
            }
        }
        let obtained = renew_patiently(&config, &live, &id, not_after, life, &status).await;
        let written = save(&config, &obtained.svid, &obtained.bundle, obtained.issued_at);
        if let Err(error) = &written {
            tracing::warn!(%error, "the renewed identity is in use, but a restart would need the old one or a new join token; trying on");
        }
        is_saved = written.is_ok();
        tracing::info!(id = %obtained.svid.id(), serial = obtained.svid.serial(), "identity renewed");
        issued_at = obtained.publish(&live);
        status.send_modify(|status| {
            status.renewals += 1;
            status.last_error = None;
        });
    }
}

/// Renews by the present identity while it is valid, and by the join token after that, until one of them works.
async fn renew_patiently(
    config: &IdentityConfig,
    live: &Arc<LiveIdentity>,
    id: &SpiffeId,
    not_after: SystemTime,
    life: Duration,
    status: &watch::Sender<IdentityStatus>,
) -> Obtained {
    let mut failures = 0;
    let mut said_expired = false;
    if live.load().svid().is_some_and(|svid| SystemTime::now() < svid.not_before()) {
        tracing::warn!(%id, "by this machine's clock the identity is not valid yet: was the clock set back? it serves nothing until the clock is right again or there is another");
    }
    loop {
        let expired = SystemTime::now() > not_after;
        if expired && !said_expired {
            said_expired = true;
            tracing::error!(
                %id,
                "the identity has EXPIRED and was not renewed: every mesh connection is refused from now on. \
                 Bring the control plane back and restart this workload with a new join token"
            );
        }
        let attempt = match &config.join_token {
            Some(token) if expired => attest(&config.server, &config.service, token).await,
            None if expired => Err(IdentityError::Expired), // unless the clock is wrong, and is put right
            _ => renew(config, live, id).await,
        };
        let error = match attempt {
            Ok(obtained) => return obtained,
            Err(error) => error.to_string(),
        };
        failures += 1;
        if failures == 1 || failures % 20 == 0 {
            tracing::warn!(%id, error, failures, "cannot renew the identity; the present one serves until it expires");
        }
        status.send_modify(|status| {
            status.failures += 1;
            status.last_error = Some(error);
        });
        tokio::time::sleep(schedule::backoff(failures, life, rand::random())).await;
    }
}
