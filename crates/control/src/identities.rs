//! The certificate authority and the join tokens as the API sees them: not there before the first commit says which trust domain this is.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use weft_authority::trust::{Key, Kind, Phase};
use weft_authority::{Authority, AuthorityError, BanError, BanList, JoinTokens};
use weft_identity::{Ban, Banned};
use weft_model::{ServiceName, SpiffeId};

use crate::status::{BanStatus, BehindStatus, JoinTokenAnswer, RootState, RootStatus, TrustStatus, unix_seconds};

/// See the module.
#[derive(Default)]
pub(crate) struct Identities(OnceLock<Open>);

struct Open {
    tokens: JoinTokens,
    bans: BanList,
    authority: Arc<Authority>,
}

/// Why somebody was not banned, or still is.
pub(crate) enum BanProblem {
    /// There is no authority yet.
    Starting,
    /// What was asked cannot be.
    Refused(String),
    /// There is no such ban.
    Unknown(String),
    /// Something else, in words.
    Failed(String),
}

/// Why no rotation was begun.
pub(crate) enum RotateError {
    /// There is no authority yet.
    Starting,
    /// There is no such root.
    Unknown(String),
    /// Something else, in words.
    Failed(String),
}

impl Identities {
    /// From now on they are there.
    pub(crate) fn open(&self, tokens: JoinTokens, bans: BanList, authority: Arc<Authority>) {
        let _ = self.0.set(Open { tokens, bans, authority }); // once: see `ControlPlane::serve`
    }

    fn authority(&self) -> Option<&Arc<Authority>> {
        self.0.get().map(|open| &open.authority)
    }

    /// A token that may become `service` once within `ttl`, or why not.
    pub(crate) async fn join_token(&self, service: &ServiceName, ttl: Duration) -> Result<JoinTokenAnswer, String> {
        let Open { tokens, authority, .. } = self.0.get().ok_or("the control plane is still starting")?;
        let now = SystemTime::now();
        let token = tokens.create(service, authority.pin(), ttl, now).await.map_err(|error| error.to_string())?;
        tracing::info!(%service, ?ttl, ?token, "join token made");
        Ok(JoinTokenAnswer { token: token.text(), service: service.to_string(), expires_at: unix_seconds(now + ttl) })
    }

    /// When the first root certificate expires, seconds since the Unix epoch; 0 before there is one.
    pub(crate) fn root_expiry(&self) -> u64 {
        self.authority().and_then(|authority| authority.bundle().first_end()).map_or(0, unix_seconds)
    }

    /// What the mesh vouches with.
    pub(crate) fn trust(&self) -> Option<TrustStatus> {
        self.0.get().map(|open| status(&open.authority, &open.bans))
    }

    /// Bans, with a reason, or lifts a ban: of a service by its name, or of whom a [`Banned`] names.
    pub(crate) async fn ban(&self, who: &str, reason: Option<&str>) -> Result<TrustStatus, BanProblem> {
        let Open { bans, authority, .. } = self.0.get().ok_or(BanProblem::Starting)?;
        let banned = match who.parse::<ServiceName>() {
            Ok(service) => Banned::Identity(SpiffeId::for_service(authority.trust_domain(), &service)),
            Err(_) => who.parse().map_err(BanProblem::Refused)?,
        };
        if let Banned::Identity(id) = &banned
            && id.trust_domain() != *authority.trust_domain()
        {
            return Err(BanProblem::Refused(format!(
                "{id} is not of this mesh, whose trust domain is {}",
                authority.trust_domain()
            )));
        }
        let done = match reason {
            Some(reason) => bans.ban(banned, reason, &authority.own_id(), SystemTime::now()).await,
            None => bans.lift(&banned).await,
        };
        match done {
            Ok(()) => Ok(status(authority, bans)),
            Err(error @ (BanError::TooMany | BanError::ControlPlane)) => Err(BanProblem::Refused(error.to_string())),
            Err(error @ BanError::Unknown(_)) => Err(BanProblem::Unknown(error.to_string())),
            Err(error @ BanError::Store(_)) => Err(BanProblem::Failed(error.to_string())),
        }
    }

    /// Begins to replace what signs of this kind, or, with the name of a root or key that is in wrong hands, that one.
    pub(crate) async fn rotate(
        &self,
        kind: Kind,
        reason: &str,
        compromised: Option<&str>,
    ) -> Result<TrustStatus, RotateError> {
        let Open { bans, authority, .. } = self.0.get().ok_or(RotateError::Starting)?;
        let begun = match compromised {
            Some(key) => authority.taint(kind_of(authority, key), key, reason).await,
            None => authority.rotate(kind, reason).await,
        };
        begun.map_err(|error| match error {
            AuthorityError::UnknownKey(error) => RotateError::Unknown(error.to_string()),
            other => RotateError::Failed(other.to_string()),
        })?;
        tracing::info!(reason, ?kind, compromised, "a rotation was asked for");
        Ok(status(authority, bans))
    }
}

/// Whether it is a key for JWT-SVIDs that is called so; else it is taken for a root.
fn kind_of(authority: &Authority, id: &str) -> Kind {
    let is_it = authority.published().borrow().trust.jwt.keys().iter().any(|key| key.id == id);
    if is_it { Kind::Jwt } else { Kind::X509 }
}

fn status(authority: &Authority, bans: &BanList) -> TrustStatus {
    let published = authority.published().borrow().clone();
    let behind = authority.behind(SystemTime::now()).into_iter();
    TrustStatus {
        trust_domain: authority.trust_domain().to_string(),
        sequence: published.trust.sequence,
        roots: published.trust.x509.keys().iter().map(root_status).collect(),
        jwt_keys: published.trust.jwt.keys().iter().map(root_status).collect(),
        issuing_renewed_at: unix_seconds(authority.next_rotation()),
        behind: behind.map(|(who, holds, until)| BehindStatus { who, holds, until }).collect(),
        bans: bans.published().borrow().iter().map(ban_status).collect(),
    }
}

fn ban_status((banned, ban): (&Banned, &Ban)) -> BanStatus {
    BanStatus { banned: banned.to_string(), reason: ban.reason.clone(), since: ban.since }
}

fn root_status(root: &Key) -> RootStatus {
    let (state, since, until) = match root.phase {
        Phase::Published { since, .. } => (RootState::Published, Some(since), None),
        Phase::Active { since } => (RootState::Active, Some(since), None),
        Phase::Retired { until } => (RootState::Retired, None, Some(until)),
    };
    RootStatus {
        id: root.id.clone(),
        state,
        since,
        until,
        not_before: root.not_before,
        not_after: root.not_after,
        tainted: root.tainted.clone(),
    }
}
