//! JWT-SVIDs are made: header and claims as JWT-SVID s.2 and s.3 say, and not a word more.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use serde_json::json;
use sha2::{Digest, Sha256};
use weft_model::SpiffeId;
use zeroize::Zeroizing;

use crate::ca::CaError;

/// The most audiences in one token. More than a few are a mistake: whoever gets it can use it at all the others (JWT-SVID s.3.2).
pub const MAX_AUDIENCES: usize = 32;
/// The longest audience, in bytes.
pub const MAX_AUDIENCE: usize = 1024;
/// The longest of all together.
pub const MAX_AUDIENCES_BYTES: usize = 4096;

/// Whom a token is for: one at least.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Audience(Vec<String>);

/// Why nobody can be given a token for these audiences.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AudienceError {
    /// JWT-SVID s.3.2.
    #[error("audience must be specified: say whom the token is for")]
    Missing,
    /// More than [`MAX_AUDIENCES`], or longer than [`MAX_AUDIENCE`] or [`MAX_AUDIENCES_BYTES`].
    #[error(
        "these are more than {MAX_AUDIENCES} audiences, one of more than {MAX_AUDIENCE} bytes, or together more than {MAX_AUDIENCES_BYTES} bytes"
    )]
    TooMany,
    /// Nobody is called so.
    #[error("an audience has a control character")]
    Control,
}

impl Audience {
    /// From what was asked for, each once and in that order. An empty text is no audience.
    ///
    /// # Errors
    /// Nothing is left, or it is more than the bounds.
    pub fn new(asked: Vec<String>) -> Result<Self, AudienceError> {
        if asked.iter().map(String::len).sum::<usize>() > MAX_AUDIENCES_BYTES || asked.len() > MAX_AUDIENCES {
            return Err(AudienceError::TooMany);
        }
        let mut seen = BTreeSet::new();
        let audience: Vec<String> =
            asked.into_iter().filter(|one| !one.is_empty() && seen.insert(one.clone())).collect();
        if audience.is_empty() {
            return Err(AudienceError::Missing);
        }
        if audience.iter().any(|one| one.len() > MAX_AUDIENCE) {
            return Err(AudienceError::TooMany);
        }
        if audience.iter().any(|one| one.chars().any(char::is_control)) {
            return Err(AudienceError::Control);
        }
        Ok(Self(audience))
    }

    /// Each of them.
    pub fn values(&self) -> &[String] {
        &self.0
    }
}

/// A key that signs JWT-SVIDs with ES256. `Debug` shows its name only.
pub struct JwtSigner {
    key: EcdsaKeyPair,
    spki: Vec<u8>,
}

impl JwtSigner {
    /// A new key, as PKCS#8 in DER.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn make() -> Result<Zeroizing<Vec<u8>>, CaError> {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        let pkcs8 = pkcs8.map_err(|_| CaError::Stored("the system gives no random numbers".into()))?;
        Ok(Zeroizing::new(pkcs8.as_ref().to_vec()))
    }

    /// From PKCS#8 in DER.
    ///
    /// # Errors
    /// It is no P-256 key.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, CaError> {
        let refuse = |why: String| CaError::Stored(format!("a key for JWT-SVIDs: {why}"));
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8);
        let key = key.map_err(|error| refuse(error.to_string()))?;
        let der: Result<PublicKeyX509Der<'_>, _> = key.public_key().as_der();
        let spki = der.map_err(|error| refuse(error.to_string()))?.as_ref().to_vec();
        Ok(Self { key, spki })
    }

    /// SubjectPublicKeyInfo of what verifies its signatures, DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of that; the first 16 hexadecimal digits are the `kid`.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(&self.spki).into()
    }

    /// What tokens name it by.
    pub fn kid(&self) -> String {
        self.hash()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A JWT-SVID of this identity (JWT-SVID s.2 and s.3). Its times are whole seconds.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn sign(
        &self,
        id: &SpiffeId,
        audience: &Audience,
        issued: SystemTime,
        expires: SystemTime,
    ) -> Result<String, CaError> {
        let header = json!({"alg": "ES256", "kid": self.kid(), "typ": "JWT"});
        let claims =
            json!({"sub": id.as_str(), "aud": audience.values(), "exp": seconds(expires), "iat": seconds(issued)});
        let mut token = BASE64URL.encode(header.to_string()) + "." + &BASE64URL.encode(claims.to_string());
        let signature = self.key.sign(&SystemRandom::new(), token.as_bytes());
        let signature = signature.map_err(|_| CaError::Stored("the key for JWT-SVIDs does not sign".into()))?;
        token.push('.');
        token += &BASE64URL.encode(signature.as_ref());
        Ok(token)
    }
}

impl fmt::Debug for JwtSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JwtSigner({})", self.kid())
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
