//! What a trust domain vouches with, and how one key follows another without anybody noticing.
//!
//! A key is *published* before it signs anything, so that everybody holds it by then; it is *active* while it signs; and it is
//! *retired*, still published, until nothing that it signed lives any more. Roots and the keys of JWT-SVIDs go the same way.
//! Pure: times are seconds after the Unix epoch and given, and what is to be done next is an answer, not a deed.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Which key it is: the first 16 hexadecimal digits of the SHA-256 of its SubjectPublicKeyInfo. Also the `kid` of JWT-SVIDs.
pub type KeyId = String;

/// Everything that the trust domain vouches with. Kept in the store as one value, so that of several servers one changes it at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// Grows by one whenever what is published changes: `spiffe_sequence` (Trust Domain and Bundle s.4.1.1).
    pub sequence: u64,
    /// Roots of X.509-SVIDs.
    pub x509: Lineage,
    /// Keys of JWT-SVIDs.
    pub jwt: Lineage,
}

/// The keys of one kind, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    keys: Vec<Key>,
    /// Why a new key is wanted before its time, from the moment somebody asks until it is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    asked: Option<String>,
    /// Keys that were said to be in wrong hands, of those that somebody else could bring again.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    refused: BTreeSet<KeyId>,
}

/// One key of the trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Which.
    pub id: KeyId,
    /// What everybody may see of it: a root's certificate, a JWT key's SubjectPublicKeyInfo; base64 of DER.
    pub public: String,
    /// Start of its life.
    pub not_before: u64,
    /// End of its life.
    pub not_after: u64,
    /// A root's key, certified by the root before it; base64 of DER. So those who were away while this one came find the way to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vouched: Option<String>,
    /// Whose it is, if not the trust domain's own: the CA outside that brought it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// How far it is.
    pub phase: Phase,
    /// Why nothing that it signed is to be trusted, once somebody has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tainted: Option<String>,
}

/// A key that was made and is not published yet: as [`Key`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// Which.
    pub id: KeyId,
    /// What everybody may see of it.
    pub public: String,
    /// Start of its life.
    pub not_before: u64,
    /// End of its life.
    pub not_after: u64,
    /// By the root before it.
    pub vouched: Option<String>,
    /// Whose it is, if not the trust domain's own.
    pub source: Option<String>,
}

/// How far a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// Known to whoever holds this sequence or a later one; signs nothing yet.
    Published {
        /// The first sequence that has it.
        sequence: u64,
        /// Since when.
        since: u64,
    },
    /// Signs.
    Active {
        /// Since when.
        since: u64,
    },
    /// Signs nothing any more; what it signed lives until then at the longest.
    Retired {
        /// The end.
        until: u64,
    },
}

/// What is known of those who hold something that the trust domain has signed and that lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The lowest sequence that one of them holds; `None` when there is nobody.
    pub lowest: Option<u64>,
    /// The keys that what they hold was signed under.
    pub under: BTreeSet<KeyId>,
}

/// How patient a lineage is, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// The longest life of anything that a key signs.
    pub longest: u64,
    /// How long those who fetch the bundle by themselves may go on with an old one: twice the refresh hint, or 0 where nobody does.
    pub fetchers: u64,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a key and publish it.
    Publish,
    /// Publish what somebody else has made: another key, or another certificate of one that is published.
    Take(Made),
    /// Everybody holds it: sign with it from now on.
    Activate(KeyId),
    /// Nothing that it signed lives: publish it no longer, and destroy it.
    Forget(KeyId),
}

impl Lineage {
    /// All keys that are published.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// The key that signs.
    pub fn active(&self) -> Option<&Key> {
        self.keys.iter().find(|key| matches!(key.phase, Phase::Active { .. }))
    }

    /// Whether a key was said to be in wrong hands.
    pub fn is_refused(&self, id: &str) -> bool {
        self.refused.contains(id)
    }

    /// One of the trust domain's own that waits.
    fn published(&self) -> Option<(&Key, u64, u64)> {
        self.keys.iter().filter(|key| key.source.is_none()).find_map(|key| match key.phase {
            Phase::Published { sequence, since } => Some((key, sequence, since)),
            _ => None,
        })
    }

    /// Whether everybody holds a key that is published since this sequence and moment, or what signs is worse than not to wait.
    pub(crate) fn is_held(&self, sequence: u64, since: u64, now: u64, held: &Held, patience: Patience) -> bool {
        let everybody = held.lowest.is_none_or(|lowest| lowest >= sequence);
        everybody && (self.is_urgent(now) || now >= since.saturating_add(patience.fetchers))
    }

    /// A key that somebody else may hold as well is worse than a few who have to come again.
    fn is_urgent(&self, now: u64) -> bool {
        self.active().is_none_or(|active| active.tainted.is_some() || active.not_after <= now)
    }

    /// What is to be done at `now`, if anything, where the trust domain makes its keys itself.
    pub fn next(&self, now: u64, held: &Held, patience: Patience) -> Option<Step> {
        if let Some(gone) = self.keys.iter().find(|key| is_over(key, now, held)) {
            return Some(Step::Forget(gone.id.clone()));
        }
        match self.published() {
            Some((key, sequence, since)) => {
                self.is_held(sequence, since, now, held, patience).then(|| Step::Activate(key.id.clone()))
            }
            None => {
                let is_over = |active: &Key| now >= half_life(active) || now < active.not_before;
                let due = self.active().is_none_or(|active| is_over(active) || active.source.is_some());
                (self.is_urgent(now) || due || self.asked.is_some()).then_some(Step::Publish)
            }
        }
    }

    /// Wants a new key, whatever the age of the one that signs.
    pub fn ask(&mut self, reason: &str) {
        self.asked = Some(reason.to_owned());
    }

    /// Takes note that `key` signs from now on.
    ///
    /// # Errors
    /// There is no such key that waits to, or that may be trusted again.
    pub fn activate(&mut self, id: &str, now: u64, patience: Patience) -> Result<(), UnknownKey> {
        let may = |key: &Key| key.id == id && key.tainted.is_none() && !matches!(key.phase, Phase::Active { .. });
        if !self.keys.iter().any(may) {
            return Err(UnknownKey(id.to_owned()));
        }
        for key in &mut self.keys {
            key.phase = match key.phase {
                Phase::Published { .. } | Phase::Retired { .. } if key.id == id => Phase::Active { since: now },
                Phase::Active { .. } => Phase::Retired { until: now.saturating_add(patience.longest) },
                other => other,
            };
        }
        Ok(())
    }
}

impl Trust {
    /// Publishes a key that was made. One that is published already gets another certificate and stays as far as it is.
    pub fn publish(&mut self, kind: Kind, made: Made, now: u64) {
        self.sequence += 1;
        let Made { id, public, not_before, not_after, vouched, source } = made;
        let phase = Phase::Published { sequence: self.sequence, since: now };
        let lineage = self.lineage_mut(kind);
        if let Some(key) = lineage.keys.iter_mut().find(|key| key.id == id) {
            (key.public, key.not_before, key.not_after, key.source) = (public, not_before, not_after, source);
            return;
        }
        if source.is_none() {
            lineage.asked = None;
        }
        lineage.keys.push(Key { id, public, not_before, not_after, vouched, source, phase, tainted: None });
    }

    /// Publishes a key no longer.
    ///
    /// # Errors
    /// There is no such key.
    pub fn forget(&mut self, kind: Kind, id: &str) -> Result<(), UnknownKey> {
        let keys = &mut self.lineage_mut(kind).keys;
        let at = keys.iter().position(|key| key.id == id).ok_or_else(|| UnknownKey(id.to_owned()))?;
        let gone = keys.remove(at);
        self.sequence += 1;
        if gone.source.is_some() && gone.tainted.is_some() {
            self.lineage_mut(kind).refused.insert(gone.id);
        }
        Ok(())
    }

    /// Takes note that nothing that a key signed is to be trusted. One that has signed nothing yet is forgotten at once.
    ///
    /// # Errors
    /// There is no such key.
    pub fn taint(&mut self, kind: Kind, id: &str, reason: &str) -> Result<(), UnknownKey> {
        let keys = &mut self.lineage_mut(kind).keys;
        let key = keys.iter_mut().find(|key| key.id == id).ok_or_else(|| UnknownKey(id.to_owned()))?;
        key.tainted.get_or_insert_with(|| reason.to_owned());
        if matches!(key.phase, Phase::Published { .. }) { self.forget(kind, id) } else { Ok(()) }
    }

    /// The keys of one kind.
    pub fn lineage(&self, kind: Kind) -> &Lineage {
        match kind {
            Kind::X509 => &self.x509,
            Kind::Jwt => &self.jwt,
        }
    }

    pub(crate) fn lineage_mut(&mut self, kind: Kind) -> &mut Lineage {
        match kind {
            Kind::X509 => &mut self.x509,
            Kind::Jwt => &mut self.jwt,
        }
    }
}

/// What a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Issuing CAs, and through them X.509-SVIDs.
    X509,
    /// JWT-SVIDs.
    Jwt,
}

/// A key that is not there, or not in the phase that it would have to be in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no authority `{0}`; `weft identity tree` lists them")]
pub struct UnknownKey(pub KeyId);

/// Nothing that a retired key signed lives any more, or must not be trusted and is in nobody's hands.
pub(crate) fn is_over(key: &Key, now: u64, held: &Held) -> bool {
    let nobody = !held.under.contains(&key.id);
    match key.phase {
        // Only a server that a CA outside still signs for under another root than its fellows lives by it for so long.
        Phase::Retired { until } => now >= until && (nobody || key.source.is_none()) || key.tainted.is_some() && nobody,
        _ => false,
    }
}

/// A key is followed by another when half of its life is over.
fn half_life(key: &Key) -> u64 {
    key.not_before + key.not_after.saturating_sub(key.not_before) / 2
}

#[cfg(test)]
mod tests;
