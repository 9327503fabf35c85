//! The keys that sign JWT-SVIDs, in the store. Which there are, and which of them signs, is the trust domain's (see [`crate::trust`]).

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use weft_identity::ca::CaError;
use weft_identity::{JwtKey, JwtSigner};
use weft_store::Store;

use crate::error::AuthorityError;
use crate::lives::Lives;
use crate::trust::{Key, Made};

/// Where the private key of a key is kept.
pub(crate) fn private_key(kid: &str) -> String {
    format!("ca/jwt/{kid}")
}

/// A new key, whose private half is in the store; its life begins at `now`, seconds after the epoch.
pub(crate) async fn make(store: &Store, lives: Lives, now: u64) -> Result<Made, AuthorityError> {
    let pkcs8 = JwtSigner::make()?;
    let signer = JwtSigner::from_pkcs8(&pkcs8)?;
    let id = signer.kid();
    store.put_sealed(&private_key(&id), &pkcs8).await?;
    let public = BASE64.encode(signer.spki());
    Ok(Made { id, public, not_before: now, not_after: now + lives.jwt.as_secs(), ..Made::default() })
}

/// What everybody may see of a key.
pub(crate) fn public(key: &Key) -> Result<JwtKey, AuthorityError> {
    let unreadable = |why: String| CaError::Stored(format!("the key {} for JWT-SVIDs: {why}", key.id));
    let spki = BASE64.decode(&key.public).map_err(|error| unreadable(error.to_string()))?;
    Ok(JwtKey::from_spki(&key.id, spki).map_err(unreadable)?)
}

/// The private half.
pub(crate) async fn read(store: &Store, kid: &str) -> Result<JwtSigner, AuthorityError> {
    let gone = || CaError::Stored(format!("the private key of {kid}, which signs JWT-SVIDs, is gone"));
    let pkcs8 = store.get_sealed(&private_key(kid)).await?.ok_or_else(gone)?;
    Ok(JwtSigner::from_pkcs8(&pkcs8)?)
}
