//! Each step that is due for the keys of the trust domain, taken.

use std::time::{Duration, SystemTime};

use crate::error::AuthorityError;
use crate::given::{self, Given};
use crate::jwt_keys;
use crate::keys::{ATTEMPTS, Published, put_trust, read_trust, seconds};
use crate::lives::Lives;
use crate::own_roots::{self, Grounds, private_key};
use crate::trust::{Held, Kind, Lineage, Patience, Step};

/// How long apps that follow their sidecar's keys for JWT-SVIDs get to take over a new one before it signs; their sidecars do not wait.
const COPIES: Duration = Duration::from_secs(2);

/// Whose roots they are.
#[derive(Clone, Copy)]
pub(crate) enum Roots<'a> {
    /// The trust domain makes them itself.
    Own,
    /// A CA outside brings them.
    Given(&'a Given),
}

/// Takes every step that is due, up to one that has another root sign: nothing is forgotten while the server still issues under it. Of
/// several servers that take the same step, the store lets one through; the others look again.
pub(crate) async fn advance(
    on: &Grounds<'_>,
    roots: Roots<'_>,
    present: Published,
    now: SystemTime,
) -> Result<Published, AuthorityError> {
    let present = advance_kind(Kind::X509, on, roots, present, now).await?;
    advance_kind(Kind::Jwt, on, Roots::Own, present, now).await
}

async fn advance_kind(
    kind: Kind,
    on: &Grounds<'_>,
    keys: Roots<'_>,
    mut present: Published,
    now: SystemTime,
) -> Result<Published, AuthorityError> {
    let Grounds { store, domain, lives, holders, .. } = *on;
    let patience = patience(kind, lives);
    let next = |lineage: &Lineage, at, held: &Held| match keys {
        Roots::Own => lineage.next(at, held, patience),
        Roots::Given(given) => given::next(lineage, given, at, held, patience),
    };
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
        let Some(step) = next(present.trust.lineage(kind), at, &held()) else { return Ok(present) };
        if store.is_shared() {
            holders.take_over().await?; // what another server wrote a moment ago counts too
            if next(present.trust.lineage(kind), at, &held()).as_ref() != Some(&step) {
                return Ok(present);
            }
        }
        let mut trust = present.trust.clone();
        let mut made = None;
        match &step {
            Step::Publish => {
                let key = match kind {
                    Kind::X509 => own_roots::make(on, &trust, now).await?,
                    Kind::Jwt => jwt_keys::make(store, lives, at).await?,
                };
                made = Some(key.id.clone());
                trust.publish(kind, key, at);
            }
            Step::Take(given) => trust.publish(kind, given.clone(), at),
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
        (_, Step::Take(made)) => {
            let (root, source) = (&made.id, made.source.as_deref().unwrap_or_default());
            tracing::info!(root, source, sequence, "a root from outside is in the bundle");
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
