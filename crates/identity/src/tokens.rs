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
use crate::obtain::{CALL_TIMEOUT, IdentityConfig, IdentityError};
use crate::proto;
use crate::proto::identity_client::IdentityClient;

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

/// Tokens that were fetched, by whom they are for. All of one identity.
#[derive(Default)]
pub struct Kept(Mutex<HashMap<Audience, Token>>);

impl Kept {
    /// The one for these audiences, while it is worth giving to somebody.
    pub fn get(&self, audience: &Audience, id: &SpiffeId, bundle: &JwtBundle) -> Option<Token> {
        self.kept().get(audience).filter(|token| token.is_good(id, bundle, SystemTime::now())).cloned()
    }

    /// Keeps one, and forgets those that have run out.
    pub fn keep(&self, audience: &Audience, token: &Token) {
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nobody takes what others would refuse: the answer must be for this identity and these audiences, by a key of the bundle.
pub(crate) fn check(
    answer: proto::IssueJwtResponse,
    audience: &Audience,
    id: &SpiffeId,
    bundle: &Arc<JwtBundle>,
) -> Result<Token, IdentityError> {
    let unusable = |why: String| IdentityError::Unusable(format!("a JWT-SVID: {why}"));
    let now = SystemTime::now();
    let first = audience.values().first().map_or("", String::as_str);
    let bundle = |_: &_| Some(bundle.clone());
    let svid = jwt::validate(&answer.token, first, bundle, now).map_err(|error| unusable(error.to_string()))?;
    if svid.id != *id {
        return Err(unusable(format!("it is for {}, not for {id}", svid.id)));
    }
    if svid.audience != audience.values() {
        return Err(unusable("it is for other audiences than were asked for".into()));
    }
    let expires = UNIX_EPOCH.checked_add(Duration::from_secs(answer.expires)).unwrap_or(UNIX_EPOCH);
    let expires = expires.min(svid.expires);
    Ok(Token { id: svid.id, text: answer.token.into(), expires, kid: svid.kid, fetched: now })
}

/// See the module.
pub struct Tokens {
    config: IdentityConfig,
    live: Arc<LiveIdentity>,
    kept: Kept,
}

impl Tokens {
    /// For the identity of this process.
    pub(crate) fn new(config: IdentityConfig, live: Arc<LiveIdentity>) -> Self {
        Self { config, live, kept: Kept::default() }
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
        if let Some(token) = self.kept.get(audience, svid.id(), bundle.jwt()) {
            return Ok(token);
        }
        let token = self.ask(audience, svid.id()).await?;
        self.kept.keep(audience, &token);
        Ok(token)
    }

    /// A connection of its own each time, so that it is the present certificate that asks.
    async fn ask(&self, audience: &Audience, id: &SpiffeId) -> Result<Token, IdentityError> {
        let channel = connect(&self.config.server, &self.live).await?;
        let mut call = tonic::Request::new(proto::IssueJwtRequest { audience: audience.values().to_vec() });
        call.set_timeout(CALL_TIMEOUT);
        let answer = IdentityClient::new(channel).issue_jwt(call).await;
        let answer = answer.map_err(|status| IdentityError::from_status(&self.config.subject, &status))?.into_inner();
        // Its key may be one that has come since.
        let bundle = self.live.load().bundle().map(|bundle| bundle.jwt().clone());
        let bundle = bundle.ok_or_else(|| IdentityError::Unavailable(OwnFault::Missing.to_string()))?;
        check(answer, audience, id, &bundle)
    }
}
