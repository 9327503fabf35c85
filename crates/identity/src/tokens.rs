//! JWT-SVIDs for this workload: fetched from the control plane, and kept while most of their life is left.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use weft_model::SpiffeId;

use crate::connect::connect;
use crate::fault::OwnFault;
use crate::jwk::JwtBundle;
use crate::jwt;
use crate::jwt_signer::Audience;
use crate::live::LiveIdentity;
use crate::obtain::{IdentityConfig, IdentityError};
use crate::proto;
use crate::proto::identity_client::IdentityClient;

/// How long the control plane may take to answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The most tokens that are kept; beyond that, the one that ends first is forgotten.
const MOST: usize = 256;

/// A JWT-SVID. `Debug` does not show it.
#[derive(Clone)]
pub struct Token {
    /// Whose it is.
    pub id: SpiffeId,
    /// In compact form.
    pub text: Arc<str>,
    /// The end of its life.
    pub expires: SystemTime,
    kid: String,
    fetched: SystemTime,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token({} until {:?})", self.id, self.expires)
    }
}

impl Token {
    /// Whether it is worth giving to somebody: this identity's, by a key that still vouches, with half of its life left.
    fn is_good(&self, id: &SpiffeId, bundle: &JwtBundle, now: SystemTime) -> bool {
        let half = self.expires.duration_since(self.fetched).unwrap_or_default() / 2;
        self.id == *id && bundle.key(&self.kid).is_some() && now >= self.fetched && now + half < self.expires
    }
}

/// See the module.
pub struct Tokens {
    config: IdentityConfig,
    live: Arc<LiveIdentity>,
    kept: Mutex<HashMap<Audience, Token>>,
}

impl Tokens {
    /// For the identity of this process.
    pub(crate) fn new(config: IdentityConfig, live: Arc<LiveIdentity>) -> Self {
        Self { config, live, kept: Mutex::default() }
    }

    /// A JWT-SVID of this workload for these audiences.
    ///
    /// # Errors
    /// There is no valid identity to ask with, the control plane does not answer, or it refuses.
    pub async fn fetch(&self, audience: &Audience) -> Result<Token, IdentityError> {
        let state = self.live.load_full();
        let (Some(svid), Some(bundle)) = (state.svid(), state.bundle()) else {
            return Err(IdentityError::Unavailable(OwnFault::Missing.to_string()));
        };
        if let Some(fault) = self.live.fault() {
            return Err(IdentityError::Unavailable(fault.to_string()));
        }
        let kept = self.kept().get(audience).cloned();
        if let Some(token) = kept.filter(|token| token.is_good(svid.id(), bundle.jwt(), SystemTime::now())) {
            return Ok(token);
        }
        let token = self.ask(audience).await?;
        self.keep(audience, &token);
        Ok(token)
    }

    /// A connection of its own each time, so that it is the present certificate that asks.
    async fn ask(&self, audience: &Audience) -> Result<Token, IdentityError> {
        let channel = connect(&self.config.server, &self.live).await?;
        let mut call = tonic::Request::new(proto::IssueJwtRequest { audience: audience.values().to_vec() });
        call.set_timeout(CALL_TIMEOUT);
        let answer = IdentityClient::new(channel).issue_jwt(call).await;
        let answer = answer.map_err(|status| IdentityError::from_status(&self.config.service, &status))?.into_inner();
        self.check(answer, audience)
    }

    /// A workload does not take what others would refuse.
    fn check(&self, answer: proto::IssueJwtResponse, audience: &Audience) -> Result<Token, IdentityError> {
        let unusable = |why: String| IdentityError::Unusable(format!("a JWT-SVID: {why}"));
        let state = self.live.load_full();
        let own = state.svid().map(|svid| svid.id().clone());
        let now = SystemTime::now();
        let first = audience.values().first().map_or("", String::as_str);
        let bundle = |_: &_| state.bundle().map(|bundle| bundle.jwt().clone());
        let svid = jwt::validate(&answer.token, first, bundle, now).map_err(|error| unusable(error.to_string()))?;
        if own.as_ref() != Some(&svid.id) {
            return Err(unusable(format!("it is for {}, not for this workload", svid.id)));
        }
        if svid.audience != audience.values() {
            return Err(unusable("it is for other audiences than were asked for".into()));
        }
        let expires = UNIX_EPOCH.checked_add(Duration::from_secs(answer.expires)).unwrap_or(UNIX_EPOCH);
        let expires = expires.min(svid.expires);
        Ok(Token { id: svid.id, text: answer.token.into(), expires, kid: svid.kid, fetched: now })
    }

    fn keep(&self, audience: &Audience, token: &Token) {
        let mut kept = self.kept();
        let now = SystemTime::now();
        kept.retain(|_, token| now < token.expires);
        if kept.len() >= MOST
            && let Some(first) =
                kept.iter().min_by_key(|(_, token)| token.expires).map(|(audience, _)| audience.clone())
        {
            kept.remove(&first);
        }
        kept.insert(audience.clone(), token.clone());
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<Audience, Token>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
