//! What is done about the keys of the trust domain when it is time, or when somebody asks.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use weft_identity::ca::rfc3339;

use super::{Authority, BEAT};
use crate::error::AuthorityError;
use crate::jwt_keys;
use crate::keys::{ATTEMPTS, Published, put_trust, read_trust, seconds};
use crate::trust::{Kind, Phase, Trust, UnknownKey};

impl Authority {
    /// Wants a new key of this kind, whatever the age of the present one. Everybody gets it before it signs. A CA outside is asked to sign
    /// anew.
    ///
    /// # Errors
    /// The store failed.
    pub async fn rotate(&self, kind: Kind, reason: &str) -> Result<(), AuthorityError> {
        if kind == Kind::X509 && self.signer.ask() {
            return Ok(()); // whether another root signs is for the CA outside to say
        }
        self.change(|trust| {
            trust.lineage_mut(kind).ask(reason);
            Ok(())
        })
        .await
    }

    /// Nothing that this key signed is to be trusted any longer than it takes to replace it. There is no way back.
    ///
    /// # Errors
    /// There is no such key, or the store failed.
    pub async fn taint(&self, kind: Kind, id: &str, reason: &str) -> Result<(), AuthorityError> {
        tracing::warn!(?kind, id, reason, "a key is tainted: everything that it signed is being replaced");
        self.change(|trust| trust.taint(kind, id, reason)).await
    }

    async fn change(&self, change: impl Fn(&mut Trust) -> Result<(), UnknownKey>) -> Result<(), AuthorityError> {
        for _ in 0..ATTEMPTS {
            let present = read_trust(&self.store, &self.domain).await?;
            let mut trust = present.trust.clone();
            change(&mut trust)?;
            if let Some(published) = put_trust(&self.store, &self.domain, &present, trust).await? {
                self.published.send_replace(Arc::new(published));
                self.asked.notify_one();
                return Ok(());
            }
        }
        Err(AuthorityError::Contended)
    }

    /// Does what is due: takes the roots a step further, and replaces the issuing CA if half of its life is over or its root signs no
    /// more. One of several servers takes a step, the others take over the result. Whether anything changed here.
    pub async fn advance(&self, now: SystemTime) -> Result<bool, AuthorityError> {
        self.holders.save(seconds(now)).await?;
        let mut changed = false;
        loop {
            let (stepped, replaced) = self.take_steps(now).await?;
            changed |= stepped || replaced;
            if self.store.is_shared() {
                self.beat(now, stepped || replaced).await?;
            }
            if !stepped {
                return Ok(changed);
            }
        }
    }

    /// Says to the other servers that this one lives, if it is time or something has changed.
    async fn beat(&self, now: SystemTime, changed: bool) -> Result<(), AuthorityError> {
        let begun = Instant::now();
        if !changed && self.beaten.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < BEAT {
            return Ok(());
        }
        // What was issued under the root before has to be known first.
        self.holders.save(seconds(now)).await?;
        let (sequence, under) = (self.published.borrow().trust.sequence, self.issuing.load().under.clone());
        self.holders.beat(&self.server, sequence, &under, seconds(now)).await?;
        *self.beaten.lock().unwrap_or_else(PoisonError::into_inner) = begun;
        Ok(())
    }

    /// Takes the steps up to the next root that signs, and has this server's issuing CA be that one's. Only then anybody is told: whoever
    /// renews because of it gets a certificate under the new root. Whether a step was taken, and whether the issuing CA was replaced.
    async fn take_steps(&self, now: SystemTime) -> Result<(bool, bool), AuthorityError> {
        let before = self.published.borrow().clone();
        let present = read_trust(&self.store, &self.domain).await?;
        let (grounds, issuing) = (self.grounds(), self.issuing.load_full());
        let present = self.signer.advance(&grounds, present, Some(&issuing), now).await?;
        let next = self.signer.issuing(&grounds, &present, Some(&issuing), now).await?;
        let replaced = next.is_some();
        if let Some(next) = next {
            next.write(&self.store, &self.issuing_key).await?;
            tracing::info!(not_after = rfc3339(next.ca.not_after), root = next.under, "made a new issuing CA");
            self.issuing.store(Arc::new(next));
        }
        self.take_jwt_key(&present).await?;
        let stepped = present.trust != before.trust;
        if stepped {
            self.published.send_replace(Arc::new(present));
        }
        Ok((stepped, replaced))
    }

    /// When the next root or key may have to go a step further, as far as time alone says: now for one that is published, and for a retired
    /// one at the end.
    pub(super) fn next_step(&self) -> SystemTime {
        let published = self.published.borrow().clone();
        let waits = self.signer.waits_for();
        let keys = published.trust.x509.keys().iter().chain(published.trust.jwt.keys());
        let steps = keys.filter_map(|key| match key.phase {
            Phase::Published { since, .. } if key.source.is_none() || waits.as_ref() == Some(&key.id) => Some(since),
            Phase::Published { .. } => None,
            Phase::Active { .. } => None,
            Phase::Retired { until } => Some(until),
        });
        UNIX_EPOCH + Duration::from_secs(steps.min().unwrap_or(u64::from(u32::MAX)))
    }

    /// Has the key in memory that signs JWT-SVIDs by what is published.
    pub(super) async fn take_jwt_key(&self, published: &Published) -> Result<(), AuthorityError> {
        let Some(active) = published.trust.jwt.active() else { return Ok(()) };
        if self.jwt.load().as_ref().is_none_or(|signer| signer.kid() != active.id) {
            self.jwt.store(Some(Arc::new(jwt_keys::read(&self.store, &active.id).await?)));
        }
        Ok(())
    }
}
