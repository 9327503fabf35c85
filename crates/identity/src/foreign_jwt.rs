//! A JWT of an issuer that is not the mesh: whether it is one, and what it says (RFC 7519, RFC 8725). Pure: keys and time are given.
//!
//! Such a token is a bearer's: nothing here shows one, and whoever takes one sees to it that it serves one key only ([`ForeignJwt::digest`]).

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::jwk::{JwtKey, Members};
use crate::jwt::{JwtError, Opened, audiences, time, verify};

/// More keys are refused: an issuer has a few.
pub const MAX_KEYS: usize = 64;
/// By how much the issuer's clock may differ from this one.
pub const LEEWAY: Duration = Duration::from_secs(30);
/// RFC 7519 s.5.1 and RFC 9068 s.2.1. Tokens for another purpose, like those of events and logouts, say so here (RFC 8725 s.3.11).
const TYPES: [&str; 4] = ["JWT", "JOSE", "at+jwt", "application/at+jwt"];

/// Why a token is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForeignJwtError {
    /// It breaks a rule that JWT-SVIDs have too.
    #[error(transparent)]
    Jwt(#[from] JwtError),
    /// RFC 7519 s.4.1.1.
    #[error("the token has no `iss` that is text")]
    NoIssuer,
    /// Another issuer's.
    #[error("the token is of the issuer {0}")]
    Issuer(String),
    /// Not, or no longer, published.
    #[error("the issuer has no key with the `kid` that the token names")]
    UnknownKey,
    /// RFC 7517 s.4.4.
    #[error("the token is signed by {0}, and its key is for another algorithm")]
    KeyAlgorithm(&'static str),
    /// RFC 7519 s.4.1.3.
    #[error("the token is for {found}, not for {expected}; ask its issuer for one with the audience {expected}")]
    Audience {
        /// Its own.
        found: String,
        /// Of this mesh.
        expected: String,
    },
    /// RFC 7519 s.4.1.6.
    #[error("the token's `iat` is no time, or lies ahead: is a clock wrong?")]
    IssuedAhead,
}

/// The public keys of an issuer.
#[derive(Clone, Debug, Default)]
pub struct IssuerKeys(Vec<(JwtKey, Option<String>)>);

/// A JWK Set (RFC 7517 s.5).
#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Element {
    kid: Option<String>,
    alg: Option<String>,
    #[serde(flatten)]
    members: Members,
}

impl IssuerKeys {
    /// Reads a JWK Set. Keys for other uses, of other types and without a name are passed over (RFC 7517 s.5).
    ///
    /// # Errors
    /// In words: it is no JWK Set, a key of it cannot be read, or there are too many.
    pub fn read(text: &[u8]) -> Result<Self, String> {
        let set: Set = serde_json::from_slice(text).map_err(|error| format!("it is no JWK Set: {error}"))?;
        if set.keys.len() > MAX_KEYS {
            return Err(format!("it has {} keys, more than {MAX_KEYS}", set.keys.len()));
        }
        let mut keys = Vec::with_capacity(set.keys.len());
        for (at, element) in set.keys.into_iter().enumerate() {
            let is_for_signatures = element.get("use").is_none_or(|usage| usage.as_str() == Some("sig"));
            if !is_for_signatures || !matches!(element["kty"].as_str(), Some("EC" | "RSA")) {
                continue;
            }
            let refuse = |why: String| format!("keys[{at}]: {why}");
            let element: Element = serde_json::from_value(element).map_err(|error| refuse(error.to_string()))?;
            let Some(kid) = element.kid.filter(|kid| !kid.is_empty()) else { continue };
            // A curve that nobody here verifies by is a key of another type.
            if let Ok(key) = JwtKey::from_jwk(&kid, &element.members) {
                keys.push((key, element.alg));
            }
        }
        Ok(Self(keys))
    }

    /// Whether there is one of this name.
    pub fn has(&self, kid: &str) -> bool {
        self.0.iter().any(|(key, _)| key.kid() == kid)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a token says of itself before anything is verified: only to find the keys to verify it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unverified {
    /// Its `iss`.
    pub issuer: String,
    /// The key that it names.
    pub kid: String,
}

impl Unverified {
    /// Reads a token.
    ///
    /// # Errors
    /// It is malformed, or signed by an algorithm that is never taken.
    pub fn read(token: &str) -> Result<Self, ForeignJwtError> {
        let opened = Opened::read(token, &TYPES)?;
        let issuer = issuer(&opened.claims)?.to_owned();
        Ok(Self { issuer, kid: opened.kid })
    }
}

/// A token that was validated.
#[derive(Clone, PartialEq)]
pub struct ForeignJwt {
    /// All claims.
    pub claims: Map<String, Value>,
    /// The end of its life.
    pub expires: SystemTime,
    /// SHA-256 of what is signed. Not of the whole: of an ECDSA signature there is a second form that anybody can make.
    pub digest: [u8; 32],
}

impl std::fmt::Debug for ForeignJwt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ForeignJwt").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// Validates a token of `issuer` for `audience` by the issuer's keys.
///
/// # Errors
/// The first rule that it breaks.
pub fn validate(
    token: &str,
    issuer: &str,
    audience: &str,
    keys: &IssuerKeys,
    now: SystemTime,
) -> Result<ForeignJwt, ForeignJwtError> {
    let Opened { algorithm, kid, claims, signed, signature } = Opened::read(token, &TYPES)?;
    let given = self::issuer(&claims)?;
    if given != issuer {
        return Err(ForeignJwtError::Issuer(short(given)));
    }
    let mut named = keys.0.iter().filter(|(key, _)| *key.kid() == kid).peekable();
    named.peek().ok_or(ForeignJwtError::UnknownKey)?;
    let fits = |alg: &Option<String>| alg.as_ref().is_none_or(|alg| alg == algorithm.name);
    let mut fitting = named.filter(|(_, alg)| fits(alg)).peekable();
    fitting.peek().ok_or(ForeignJwtError::KeyAlgorithm(algorithm.name))?;
    if !fitting.any(|(key, _)| verify(&algorithm, key, signed, signature).is_ok()) {
        return Err(JwtError::Signature.into());
    }
    let given = audiences(&claims)?;
    if audience.is_empty() || !given.iter().any(|given| given == audience) {
        return Err(ForeignJwtError::Audience { found: short(&given.join(", ")), expected: audience.to_owned() });
    }
    let expires = time(claims.get("exp")).ok_or(JwtError::NoExpiry)?;
    if expires.checked_add(LEEWAY).is_none_or(|end| now >= end) {
        return Err(JwtError::Expired(now.duration_since(expires).unwrap_or_default().as_secs()).into());
    }
    let lies_ahead = |claim: &Value| time(Some(claim)).is_none_or(|start| now + LEEWAY < start);
    if claims.get("nbf").is_some_and(lies_ahead) {
        return Err(JwtError::NotYetValid.into());
    }
    if claims.get("iat").is_some_and(lies_ahead) {
        return Err(ForeignJwtError::IssuedAhead);
    }
    Ok(ForeignJwt { expires, digest: Sha256::digest(signed).into(), claims })
}

fn issuer(claims: &Map<String, Value>) -> Result<&str, ForeignJwtError> {
    claims.get("iss").and_then(Value::as_str).ok_or(ForeignJwtError::NoIssuer)
}

/// What a stranger says, for a message.
fn short(text: &str) -> String {
    text.chars().take(200).filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests;
