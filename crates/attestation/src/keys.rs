//! The keys of issuers: those that stand in the intent, and those that are found where the issuer says (OpenID Connect Discovery 1.0 s.4).
//!
//! Anybody can come with a token that names a key which nobody knows. So that this brings no flood upon an issuer, its keys are fetched by
//! one at a time, and not again within a few seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use weft_fetch::{WebRoots, get};
use weft_identity::IssuerKeys;
use weft_model::intent::{Oidc, OidcKeys, WebUrl};

/// How long keys count without being looked at again: a key that its issuer has withdrawn is good for no longer.
const FRESH: Duration = Duration::from_secs(5 * 60);
/// How long they count while the issuer cannot be reached.
const LONGEST: Duration = Duration::from_secs(60 * 60);
/// Between two fetches.
const COOL_DOWN: Duration = Duration::from_secs(10);
/// A longer document is refused.
const MOST_BYTES: usize = 256 << 10;

/// See the module.
#[derive(Default)]
pub struct Keys {
    system: OnceLock<WebRoots>,
    issuers: Mutex<HashMap<Source, Arc<Issuer>>>,
}

/// Where keys are found, and by whom its server is judged.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Source {
    issuer: Arc<str>,
    ca: Option<Arc<str>>,
}

#[derive(Default)]
struct Issuer {
    known: Mutex<Known>,
    /// Held by the one who fetches.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Clone, Default)]
struct Known {
    keys: Arc<IssuerKeys>,
    fetched: Option<Instant>,
    tried: Option<Instant>,
    /// Why the last attempt brought nothing.
    error: Option<String>,
}

impl Known {
    /// The keys, if this one is among them and they are young enough.
    fn with(&self, kid: &str, age: Duration, now: Instant) -> Option<Arc<IssuerKeys>> {
        let is_young = self.fetched.is_some_and(|fetched| now.duration_since(fetched) < age);
        (is_young && self.keys.has(kid)).then(|| self.keys.clone())
    }
}

/// A discovery document. Who the issuer is must stand in it too (s.4.3).
#[derive(Deserialize)]
struct Configuration {
    issuer: String,
    jwks_uri: String,
}

impl Keys {
    /// The keys of an issuer, looked for anew if this one is not among those that are known.
    ///
    /// # Errors
    /// In words: there are none at present. Trying again may help.
    pub(crate) async fn of(&self, entry: &Oidc, kid: &str) -> Result<Arc<IssuerKeys>, String> {
        let ca = match &entry.keys {
            OidcKeys::Inline { jwks, .. } => return IssuerKeys::read(jwks.as_bytes()).map(Arc::new),
            OidcKeys::Discovered { ca, .. } => ca.clone(),
        };
        let source = Source { issuer: entry.issuer.clone(), ca };
        let issuer =
            self.issuers.lock().unwrap_or_else(PoisonError::into_inner).entry(source.clone()).or_default().clone();
        if let Some(keys) = issuer.known().with(kid, FRESH, Instant::now()) {
            return Ok(keys);
        }
        let _alone = issuer.fetching.lock().await;
        let known = issuer.known();
        let now = Instant::now();
        if let Some(keys) = known.with(kid, FRESH, now) {
            return Ok(keys);
        }
        if let Some(ago) = known.tried.map(|tried| now.duration_since(tried)).filter(|ago| *ago < COOL_DOWN) {
            let why =
                known.error.clone().unwrap_or_else(|| "the key that the token names is not among them".to_owned());
            return known.with(kid, LONGEST, now).ok_or_else(|| {
                let (ago, rest) = (ago.as_secs(), (COOL_DOWN - ago).as_secs() + 1);
                format!(
                    "the keys of {} were asked for {ago} s ago: {why}; they are asked for again in {rest} s",
                    source.issuer
                )
            });
        }
        let fetched = self.fetch(&source).await;
        let mut known = issuer.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.tried = Some(now);
        match fetched {
            Ok(keys) => {
                tracing::info!(issuer = &*source.issuer, "the keys of an issuer were fetched");
                (known.keys, known.fetched, known.error) = (Arc::new(keys), Some(now), None);
                Ok(known.keys.clone())
            }
            Err(why) => {
                tracing::warn!(issuer = &*source.issuer, why, "the keys of an issuer were not fetched");
                known.error = Some(why.clone());
                known
                    .with(kid, LONGEST, now)
                    .ok_or_else(|| format!("the keys of {} cannot be fetched: {why}", source.issuer))
            }
        }
    }

    async fn fetch(&self, source: &Source) -> Result<IssuerKeys, String> {
        let roots = match &source.ca {
            Some(pem) => WebRoots::pem(pem.as_bytes())?,
            None => self.system.get_or_init(WebRoots::system).clone(),
        };
        let base = source.issuer.trim_end_matches('/');
        let at = parse(&format!("{base}/.well-known/openid-configuration"))?;
        let text = get(&at, roots.config(), MOST_BYTES).await.map_err(|error| error.to_string())?;
        let found: Configuration = serde_json::from_slice(&text)
            .map_err(|error| format!("its openid-configuration has no `issuer` and `jwks_uri`: {error}"))?;
        if found.issuer != *source.issuer {
            let other: String = found.issuer.chars().take(200).collect();
            return Err(format!("its openid-configuration is that of {other:?}: write `issuer` as it stands there"));
        }
        let url = parse(&found.jwks_uri).map_err(|why| format!("its `jwks_uri` is refused: {why}"))?;
        if at.tls && !url.tls {
            return Err("its `jwks_uri` is refused: it is not https".to_owned());
        }
        let text = get(&url, roots.config(), MOST_BYTES).await.map_err(|error| format!("its `jwks_uri`: {error}"))?;
        IssuerKeys::read(&text).map_err(|why| format!("its keys cannot be read: {why}"))
    }
}

impl Issuer {
    fn known(&self) -> Known {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn parse(url: &str) -> Result<WebUrl, String> {
    WebUrl::parse(url).map_err(|(problem, _)| problem.to_owned())
}
