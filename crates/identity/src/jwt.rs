//! Whether a JWT-SVID is one, whose it is, and what it says (JWT-SVID s.2 to s.4). Pure: bundles and time are given.
//!
//! Of what a token says nothing is believed before its signature is verified, but which key to verify it by: its `kid`, in the bundle of
//! the trust domain of its `sub` (Workload API s.6.3). No message shows a part of the token: whoever reads a log could use it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, EcdsaVerificationAlgorithm,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Map, Value};
use weft_model::{NameError, SpiffeId, TrustDomain};

use crate::jwk::{Curve, JwtBundle, JwtKey, Material};

#[cfg(test)]
mod tests;

/// The longest token that is read, in bytes.
pub const MAX_TOKEN: usize = 16 * 1024;
/// By how much the clock of whoever set `nbf` may be ahead. `exp` has no leeway: tokens live for minutes.
const AHEAD: Duration = Duration::from_secs(30);
/// Header parameters that change what a signature means, or bring a key along (RFC 7515 s.4.1, RFC 7797). What else may stand in a header
/// is passed over.
const REFUSED: [&str; 7] = ["crit", "b64", "jwk", "jku", "x5c", "x5u", "zip"];

/// A JWT-SVID that was validated.
#[derive(Clone, Debug, PartialEq)]
pub struct JwtSvid {
    /// Whose it is.
    pub id: SpiffeId,
    /// Whom it is for.
    pub audience: Vec<String>,
    /// The end of its life.
    pub expires: SystemTime,
    /// The key that signed it.
    pub kid: String,
    /// All claims, `aud` always as a list.
    pub claims: Map<String, Value>,
}

/// Why a token is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// Whoever validates has to say as whom (JWT-SVID appendix A).
    #[error("no audience was given that the token must be for")]
    NoAudience,
    /// Longer than [`MAX_TOKEN`].
    #[error("the token has {0} bytes, more than {MAX_TOKEN}")]
    TooLong(usize),
    /// Not `header.claims.signature` (RFC 7515 s.3.1).
    #[error("the token is no JWS in compact form: {0}")]
    Form(&'static str),
    /// JWT-SVID s.2.1.
    #[error("the token's algorithm is none that JWT-SVIDs have: RS, ES or PS with 256, 384 or 512")]
    Algorithm,
    /// One of those that are refused.
    #[error("the token's header has `{0}`, which no JWT-SVID has")]
    Parameter(&'static str),
    /// JWT-SVID s.2.3.
    #[error("the token's `typ` is neither JWT nor JOSE")]
    Type,
    /// JWT-SVID s.2.2 leaves it open; trying every key would not.
    #[error("the token does not say which key signed it: it has no `kid`")]
    NoKid,
    /// JWT-SVID s.3.1.
    #[error("the token's `sub` is no SPIFFE ID of a workload: {0}")]
    Subject(&'static str),
    /// Workload API s.6.3.
    #[error("there is no bundle for the trust domain of the token's subject, {0}")]
    Foreign(TrustDomain),
    /// Not, or no longer, published.
    #[error("the key that the token names is not in the bundle of {0}")]
    UnknownKey(TrustDomain),
    /// Wrong, or of a key of another kind than the algorithm's.
    #[error("the token's signature is wrong")]
    Signature,
    /// JWT-SVID s.3.2.
    #[error("the token has no `aud`")]
    AudienceMissing,
    /// JWT-SVID s.3.2.
    #[error("the token is for another audience")]
    Audience,
    /// JWT-SVID s.3.3.
    #[error("the token has no `exp` that is a time")]
    NoExpiry,
    /// JWT-SVID s.3.3.
    #[error("the token expired {0} s ago")]
    Expired(u64),
    /// RFC 7519 s.4.1.5.
    #[error("the token's `nbf` is no time, or lies ahead: is a clock wrong?")]
    NotYetValid,
}

/// Validates a token for one who is called `audience`, by the bundle that there is for the trust domain of its subject, if any.
///
/// # Errors
/// The first rule that it breaks.
pub fn validate(
    token: &str,
    audience: &str,
    bundle_of: impl FnOnce(&TrustDomain) -> Option<Arc<JwtBundle>>,
    now: SystemTime,
) -> Result<JwtSvid, JwtError> {
    if audience.is_empty() {
        return Err(JwtError::NoAudience);
    }
    let Opened { algorithm, kid, mut claims, signed, signature } = Opened::read(token, &["JWT", "JOSE"])?;
    let id = subject(&claims)?;
    let domain = id.trust_domain();
    let bundle = bundle_of(&domain).filter(|bundle| *bundle.trust_domain() == domain);
    let bundle = bundle.ok_or_else(|| JwtError::Foreign(domain.clone()))?;
    let key = bundle.key(&kid).ok_or(JwtError::UnknownKey(domain))?;
    verify(&algorithm, key, signed, signature)?;

    let audiences = audiences(&claims)?;
    if !audiences.iter().any(|given| given == audience) {
        return Err(JwtError::Audience);
    }
    let expires = time(claims.get("exp")).ok_or(JwtError::NoExpiry)?;
    if now >= expires {
        return Err(JwtError::Expired(now.duration_since(expires).unwrap_or_default().as_secs()));
    }
    if let Some(nbf) = claims.get("nbf")
        && time(Some(nbf)).is_none_or(|start| now + AHEAD < start)
    {
        return Err(JwtError::NotYetValid);
    }
    claims.insert("aud".to_owned(), audiences.iter().cloned().collect());
    Ok(JwtSvid { id, audience: audiences, expires, kid, claims })
}

/// A token in compact form whose header is one that is looked further at. Nothing of it is believed yet.
pub(crate) struct Opened<'a> {
    pub(crate) algorithm: Algorithm,
    pub(crate) kid: String,
    pub(crate) claims: Map<String, Value>,
    /// What the signature is over: all before the last dot.
    pub(crate) signed: &'a str,
    pub(crate) signature: &'a str,
}

impl<'a> Opened<'a> {
    /// Reads one whose `typ`, if it has one, is one of these.
    pub(crate) fn read(token: &'a str, types: &[&str]) -> Result<Self, JwtError> {
        if token.len() > MAX_TOKEN {
            return Err(JwtError::TooLong(token.len()));
        }
        let parts: Vec<&str> = token.split('.').collect();
        let [header, payload, signature] = parts[..] else {
            return Err(JwtError::Form("it has not three parts with dots between them"));
        };
        // The algorithm comes before everything else (JWT-SVID s.4).
        let header = object(header, "its header is no JSON object in base64url")?;
        let algorithm = header.get("alg").and_then(Value::as_str).and_then(Algorithm::of).ok_or(JwtError::Algorithm)?;
        if let Some(refused) = REFUSED.iter().find(|name| header.contains_key(**name)) {
            return Err(JwtError::Parameter(refused));
        }
        if header.get("typ").is_some_and(|typ| !typ.as_str().is_some_and(|typ| types.contains(&typ))) {
            return Err(JwtError::Type);
        }
        let kid = header.get("kid").and_then(Value::as_str).filter(|kid| !kid.is_empty()).ok_or(JwtError::NoKid)?;
        let claims = object(payload, "its claims are no JSON object in base64url")?;
        let signed = &token[..token.len() - signature.len() - 1];
        Ok(Self { algorithm, kid: kid.to_owned(), claims, signed, signature })
    }
}

/// Whether the key has signed it by the algorithm.
pub(crate) fn verify(algorithm: &Algorithm, key: &JwtKey, signed: &str, signature: &str) -> Result<(), JwtError> {
    let signature = BASE64URL.decode(signature).map_err(|_| JwtError::Signature)?;
    if algorithm.verify(key, signed.as_bytes(), &signature) { Ok(()) } else { Err(JwtError::Signature) }
}

fn object(part: &str, why: &'static str) -> Result<Map<String, Value>, JwtError> {
    let bytes = BASE64URL.decode(part).map_err(|_| JwtError::Form(why))?;
    serde_json::from_slice(&bytes).map_err(|_| JwtError::Form(why))
}

fn subject(claims: &Map<String, Value>) -> Result<SpiffeId, JwtError> {
    let sub = claims.get("sub").ok_or(JwtError::Subject("it is missing"))?;
    let sub = sub.as_str().ok_or(JwtError::Subject("it is no text"))?;
    sub.parse().map_err(|error| match error {
        NameError::SpiffeId { why, .. } => JwtError::Subject(why),
        NameError::TrustDomain(_) | NameError::ServiceName(_) | NameError::AgentName(_) => {
            JwtError::Subject("it is malformed")
        }
    })
}

/// RFC 7519 s.4.1.3: one text, or several.
pub(crate) fn audiences(claims: &Map<String, Value>) -> Result<Vec<String>, JwtError> {
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or(JwtError::AudienceMissing);
    match claims.get("aud") {
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(Value::Array(several)) if !several.is_empty() => several.iter().map(text).collect(),
        _ => Err(JwtError::AudienceMissing),
    }
}

/// RFC 7519 s.2, NumericDate: seconds since 1970, which may have a fraction.
pub(crate) fn time(value: Option<&Value>) -> Option<SystemTime> {
    let seconds = value?.as_f64()?;
    UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
}

/// An algorithm of JWT-SVID s.2.1 (RFC 7518 s.3.3 to s.3.5).
pub(crate) struct Algorithm {
    /// As `alg` has it.
    pub(crate) name: &'static str,
    kind: Family,
}

enum Family {
    Ecdsa(Curve, &'static EcdsaVerificationAlgorithm),
    Rsa(&'static RsaParameters),
}

impl Algorithm {
    fn of(name: &str) -> Option<Self> {
        let (name, kind) = match name {
            "ES256" => ("ES256", Family::Ecdsa(Curve::P256, &ECDSA_P256_SHA256_FIXED)),
            "ES384" => ("ES384", Family::Ecdsa(Curve::P384, &ECDSA_P384_SHA384_FIXED)),
            "ES512" => ("ES512", Family::Ecdsa(Curve::P521, &ECDSA_P521_SHA512_FIXED)),
            "RS256" => ("RS256", Family::Rsa(&RSA_PKCS1_2048_8192_SHA256)),
            "RS384" => ("RS384", Family::Rsa(&RSA_PKCS1_2048_8192_SHA384)),
            "RS512" => ("RS512", Family::Rsa(&RSA_PKCS1_2048_8192_SHA512)),
            "PS256" => ("PS256", Family::Rsa(&RSA_PSS_2048_8192_SHA256)),
            "PS384" => ("PS384", Family::Rsa(&RSA_PSS_2048_8192_SHA384)),
            "PS512" => ("PS512", Family::Rsa(&RSA_PSS_2048_8192_SHA512)),
            _ => return None,
        };
        Some(Self { name, kind })
    }

    /// Whether the key is of this algorithm's kind and has signed the message.
    fn verify(&self, key: &JwtKey, message: &[u8], signature: &[u8]) -> bool {
        match (&self.kind, &key.material) {
            (Family::Ecdsa(wanted, algorithm), Material::Ec { curve, point }) if wanted == curve => {
                UnparsedPublicKey::new(*algorithm, point).verify(message, signature).is_ok()
            }
            (Family::Rsa(parameters), Material::Rsa { n, e }) => {
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature).is_ok()
            }
            _ => false,
        }
    }
}
