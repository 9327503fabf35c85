//! What the trust domain vouches with, in the store: read, changed by one server at a time, and what follows from it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use rustls::pki_types::CertificateDer;
use weft_identity::TrustBundle;
use weft_identity::ca::CaError;
use weft_model::TrustDomain;
use weft_store::{Store, Swap};

use crate::error::AuthorityError;
use crate::jwt_keys;
use crate::trust::{Key, KeyId, Phase, Trust};

/// What the trust domain vouches with.
pub(crate) const TRUST: &str = "ca/trust";

/// Attempts to change what several servers change at once; each fails only because another server's succeeded.
pub(crate) const ATTEMPTS: u32 = 100;

/// What the trust domain vouches with, and what follows from it.
#[derive(Debug)]
pub struct Published {
    /// As it stands in the store.
    pub trust: Trust,
    /// What everybody is to verify by.
    pub bundle: Arc<TrustBundle>,
    revision: Option<u64>,
}

impl Published {
    fn new(trust: Trust, revision: Option<u64>, domain: &TrustDomain) -> Result<Self, AuthorityError> {
        let roots = trust.x509.keys().iter().map(certificate).collect::<Result<Vec<_>, _>>()?;
        let bundle = TrustBundle::new(domain.clone(), roots)
            .map_err(|error| AuthorityError::OtherTrustDomain(domain.clone(), error.to_string()))?;
        let jwt_keys = trust.jwt.keys().iter().map(jwt_keys::public).collect::<Result<Vec<_>, _>>()?;
        let bundle = bundle.with_jwt_keys(jwt_keys)?;
        Ok(Self { bundle: Arc::new(bundle.with_sequence(trust.sequence)), trust, revision })
    }

    /// Whether what was issued under this root is to be replaced at once.
    pub fn is_tainted(&self, under: &str) -> bool {
        let keys = self.trust.x509.keys();
        keys.iter().any(|key| key.id == under && key.tainted.is_some() && !matches!(key.phase, Phase::Active { .. }))
    }
}

pub(crate) async fn read_trust(store: &Store, domain: &TrustDomain) -> Result<Published, AuthorityError> {
    let Some(entry) = store.get(TRUST).await? else { return Published::new(Trust::default(), None, domain) };
    let plain = store.unseal(TRUST, &entry.value)?;
    let trust = serde_json::from_slice(&plain).map_err(|error| CaError::Stored(format!("{TRUST}: {error}")))?;
    Published::new(trust, Some(entry.revision), domain)
}

/// Puts what the trust domain vouches with into the store, sealed, since whoever could write it could have the mesh trust anybody.
/// `None`: somebody else has changed it since `present` was read.
pub(crate) async fn put_trust(
    store: &Store,
    domain: &TrustDomain,
    present: &Published,
    trust: Trust,
) -> Result<Option<Published>, AuthorityError> {
    let plain = serde_json::to_vec(&trust).expect("strings and numbers are JSON");
    match store.compare_and_swap(TRUST, present.revision, Some(store.seal(TRUST, &plain))).await? {
        Swap::Done(revision) => Ok(Some(Published::new(trust, Some(revision), domain)?)),
        Swap::Conflict(_) => Ok(None),
    }
}

/// Of a [`KeyId`].
pub(crate) const KEY_ID_LENGTH: usize = 16;

/// See [`KeyId`].
pub(crate) fn key_id(hash: &[u8; 32]) -> KeyId {
    hash[..KEY_ID_LENGTH / 2].iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn certificate(root: &Key) -> Result<CertificateDer<'static>, CaError> {
    from_base64(&root.public)
}

pub(crate) fn from_base64(text: &str) -> Result<CertificateDer<'static>, CaError> {
    let der = BASE64.decode(text).map_err(|error| CaError::Stored(format!("a certificate: {error}")))?;
    Ok(CertificateDer::from(der))
}

pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
