//! Roots whose keys are the trust domain's own, and in the store: one is made, and one signs an issuing CA. A key is read only for the
//! moment in which it signs.

use std::time::SystemTime;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use weft_identity::ca::{Ca, CaError};
use weft_model::TrustDomain;
use weft_store::Store;

use crate::error::AuthorityError;
use crate::holders::Holders;
use crate::issuing::Issuing;
use crate::jwt_keys;
use crate::keys::{Published, key_id, seconds};
use crate::lives::Lives;
use crate::trust::{Kind, Made, Trust};

/// Where earlier versions kept the only root.
const FORMER_ROOT: &str = "ca/root";

/// What everything about keys begins with.
#[derive(Clone, Copy)]
pub(crate) struct Grounds<'a> {
    pub(crate) store: &'a Store,
    pub(crate) domain: &'a TrustDomain,
    pub(crate) lives: Lives,
    pub(crate) holders: &'a Holders,
    /// What this server is told from others by.
    pub(crate) server: &'a str,
}

/// A new root with its key in the store, certified by the one that signs now, if that may be trusted.
pub(crate) async fn make(on: &Grounds<'_>, trust: &Trust, now: SystemTime) -> Result<Made, AuthorityError> {
    let Grounds { store, domain, lives, .. } = *on;
    let root = match (trust.sequence, store.get_sealed(FORMER_ROOT).await?) {
        (0, Some(bytes)) => Ca::from_bytes(&bytes)?,
        _ => Ca::root(domain, now, lives.root)?,
    };
    let predecessor = match trust.x509.active().filter(|active| active.tainted.is_none()) {
        Some(active) => read(store, &active.id).await?,
        None => None,
    };
    let vouched = predecessor.map(|before| before.vouch_for(&root, domain, now, now + lives.vouched)).transpose()?;
    let id = key_id(&root.pin());
    store.put_sealed(&private_key(Kind::X509, &id), &root.to_bytes()).await?;
    Ok(Made {
        id,
        public: BASE64.encode(root.certificate()),
        not_before: seconds(root.not_before),
        not_after: seconds(root.not_after),
        vouched: vouched.map(|certificate| BASE64.encode(certificate)),
        source: None,
    })
}

/// An issuing CA of the root that signs.
pub(crate) async fn sign(on: &Grounds<'_>, published: &Published, now: SystemTime) -> Result<Issuing, AuthorityError> {
    let gone = || CaError::Stored("the key of the root that signs is gone".into());
    let active = published.trust.x509.active().ok_or_else(gone)?;
    let root = read(on.store, &active.id).await?.ok_or_else(gone)?;
    Ok(Issuing::new(root.issuing(on.domain, now, on.lives.issuing)?, Vec::new(), active.id.clone()))
}

async fn read(store: &Store, id: &str) -> Result<Option<Ca>, AuthorityError> {
    Ok(store.get_sealed(&private_key(Kind::X509, id)).await?.map(|bytes| Ca::from_bytes(&bytes)).transpose()?)
}

/// Where the private key of a key is kept.
pub(crate) fn private_key(kind: Kind, id: &str) -> String {
    match kind {
        Kind::X509 => format!("ca/x509/{id}"),
        Kind::Jwt => jwt_keys::private_key(id),
    }
}
