//! The keys of the trust domain in the store: how they are kept, and each step that [`crate::trust`] says is due, taken.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use rustls::pki_types::CertificateDer;
use weft_identity::TrustBundle;
use weft_identity::ca::{self, Ca, CaError};
use weft_identity::schedule;
use weft_model::TrustDomain;
use weft_store::{Store, Swap};
use zeroize::Zeroizing;

use crate::error::AuthorityError;
use crate::holders::Holders;
use crate::jwt_keys;
use crate::lives::Lives;
use crate::trust::{Key, KeyId, Kind, Made, Patience, Phase, Step, Trust};

/// What the trust domain vouches with.
pub(crate) const TRUST: &str = "ca/trust";
/// Where earlier versions kept the only root.
const FORMER_ROOT: &str = "ca/root";

/// How long apps that follow their sidecar's keys for JWT-SVIDs get to take over a new one before it signs; their sidecars do not wait.
const COPIES: Duration = Duration::from_secs(2);

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

/// An issuing CA, and the root that signed it.
pub(crate) struct Issuing {
    pub(crate) ca: Ca,
    pub(crate) under: KeyId,
}

/// Takes every step that is due, up to one that has another root sign: nothing is forgotten while the server still issues under it. Of
/// several servers that take the same step, the store lets one through; the others look again.
pub(crate) async fn advance(
    store: &Store,
    domain: &TrustDomain,
    lives: Lives,
    present: Published,
    holders: &Holders,
    now: SystemTime,
) -> Result<Published, AuthorityError> {
    let present = advance_kind(Kind::X509, store, domain, lives, present, holders, now).await?;
    advance_kind(Kind::Jwt, store, domain, lives, present, holders, now).await
}

async fn advance_kind(
    kind: Kind,
    store: &Store,
    domain: &TrustDomain,
    lives: Lives,
    mut present: Published,
    holders: &Holders,
    now: SystemTime,
) -> Result<Published, AuthorityError> {
    let patience = patience(kind, lives);
    for _ in 0..ATTEMPTS {
        let at = seconds(now);
        let held = || {
            let mut held = holders.held(at);
            if kind == Kind::Jwt {
                // Tokens are not counted. They live for minutes, and those of a stolen key are refused at once: a thief's look the same.
                held.under.clear();
            }
            held
        };
        let Some(step) = present.trust.lineage(kind).next(at, &held(), patience) else { return Ok(present) };
        if store.is_shared() {
            holders.take_over().await?; // what another server wrote a moment ago counts too
            if present.trust.lineage(kind).next(at, &held(), patience).as_ref() != Some(&step) {
                return Ok(present);
            }
        }
        let mut trust = present.trust.clone();
        let mut made = None;
        match &step {
            Step::Publish => {
                let key = match kind {
                    Kind::X509 => make_root(store, domain, lives, &trust, now).await?,
                    Kind::Jwt => jwt_keys::make(store, lives, at).await?,
                };
                made = Some(key.id.clone());
                trust.publish(kind, key, at);
            }
            Step::Activate(id) => trust.lineage_mut(kind).activate(id, at, patience)?,
            Step::Forget(id) => trust.forget(kind, id)?,
        }
        present = match put_trust(store, domain, &present, trust).await? {
            Some(published) => {
                tell(kind, &step, &published);
                if let Step::Forget(id) = &step {
                    store.delete(&private_key(kind, id)).await?;
                }
                if let (Kind::X509, Step::Activate(_)) = (kind, &step) {
                    return Ok(published);
                }
                published
            }
            None => {
                let present = read_trust(store, domain).await?;
                // Another server was quicker: the key that was made here is nobody's. (Unless it was this one, and the answer was lost.)
                if let Some(id) = made.filter(|id| present.trust.lineage(kind).keys().iter().all(|key| key.id != *id)) {
                    store.delete(&private_key(kind, &id)).await?;
                }
                present
            }
        };
    }
    Err(AuthorityError::Contended)
}

fn patience(kind: Kind, lives: Lives) -> Patience {
    match kind {
        Kind::X509 => Patience { longest: lives.retired.as_secs(), fetchers: lives.fetchers.as_secs() },
        Kind::Jwt => Patience { longest: lives.jwt_retired.as_secs(), fetchers: COPIES.max(lives.fetchers).as_secs() },
    }
}

fn tell(kind: Kind, step: &Step, published: &Published) {
    let sequence = published.trust.sequence;
    match (kind, step) {
        (Kind::X509, Step::Publish) => {
            tracing::info!(sequence, "a new root is in the bundle; it signs when everybody holds it");
        }
        (Kind::X509, Step::Activate(root)) => tracing::info!(root, "the root signs from now on"),
        (Kind::X509, Step::Forget(root)) => {
            tracing::info!(root, sequence, "nothing lives by the root any more: it left the bundle");
        }
        (Kind::Jwt, Step::Publish) => {
            tracing::info!(sequence, "a new key for JWT-SVIDs is in the bundle; it signs when everybody holds it");
        }
        (Kind::Jwt, Step::Activate(kid)) => tracing::info!(kid, "the key signs JWT-SVIDs from now on"),
        (Kind::Jwt, Step::Forget(kid)) => tracing::info!(kid, sequence, "the key for JWT-SVIDs left the bundle"),
    }
}

/// A new root with its key in the store, certified by the one that signs now, if that may be trusted.
async fn make_root(
    store: &Store,
    domain: &TrustDomain,
    lives: Lives,
    trust: &Trust,
    now: SystemTime,
) -> Result<Made, AuthorityError> {
    let root = match (trust.sequence, store.get_sealed(FORMER_ROOT).await?) {
        (0, Some(bytes)) => Ca::from_bytes(&bytes)?,
        _ => Ca::root(domain, now, lives.root)?,
    };
    let predecessor = match trust.x509.active().filter(|active| active.tainted.is_none()) {
        Some(active) => read_root(store, &active.id).await?,
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
    })
}

/// Whether an issuing CA may go on: the root that signs has signed it, and half of its life is not over. One that was made by a clock
/// that has been set back since is not valid yet.
pub(crate) fn is_good(issuing: &Issuing, published: &Published, now: SystemTime) -> bool {
    published.trust.x509.active().is_some_and(|root| root.id == issuing.under)
        && now < schedule::half_life(issuing.ca.not_before, issuing.ca.not_after)
        && now >= issuing.ca.not_before
}

pub(crate) async fn make_issuing(
    store: &Store,
    key: &str,
    domain: &TrustDomain,
    lives: Lives,
    published: &Published,
    now: SystemTime,
) -> Result<Issuing, AuthorityError> {
    let gone = || CaError::Stored("the key of the root that signs is gone".into());
    let active = published.trust.x509.active().ok_or_else(gone)?;
    let root = read_root(store, &active.id).await?.ok_or_else(gone)?;
    let issuing = Issuing { ca: root.issuing(domain, now, lives.issuing)?, under: active.id.clone() };
    let ca = issuing.ca.to_bytes();
    let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_ID_LENGTH + ca.len())); // of one piece, so that no copy stays behind
    bytes.extend_from_slice(issuing.under.as_bytes());
    bytes.extend_from_slice(&ca);
    store.put_sealed(key, &bytes).await?;
    tracing::info!(not_after = ca::rfc3339(issuing.ca.not_after), root = issuing.under, "made a new issuing CA");
    Ok(issuing)
}

pub(crate) async fn read_issuing(store: &Store, key: &str) -> Result<Option<Issuing>, AuthorityError> {
    let Some(bytes) = store.get_sealed(key).await? else { return Ok(None) };
    let short = || CaError::Stored("it is cut short".into());
    let (under, ca) = bytes.split_at_checked(KEY_ID_LENGTH).ok_or_else(short)?;
    let under = String::from_utf8(under.to_vec()).map_err(|_| CaError::Stored("it names no root".into()))?;
    Ok(Some(Issuing { ca: Ca::from_bytes(ca)?, under }))
}

async fn read_root(store: &Store, id: &str) -> Result<Option<Ca>, AuthorityError> {
    Ok(store.get_sealed(&private_key(Kind::X509, id)).await?.map(|bytes| Ca::from_bytes(&bytes)).transpose()?)
}

/// Where the private key of a key is kept.
fn private_key(kind: Kind, id: &str) -> String {
    match kind {
        Kind::X509 => format!("ca/x509/{id}"),
        Kind::Jwt => jwt_keys::private_key(id),
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

const KEY_ID_LENGTH: usize = 16;

/// See [`KeyId`].
fn key_id(hash: &[u8; 32]) -> KeyId {
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
