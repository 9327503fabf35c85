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

    fn published(&self) -> Option<(&Key, u64, u64)> {
        self.keys.iter().find_map(|key| match key.phase {
            Phase::Published { sequence, since } => Some((key, sequence, since)),
            _ => None,
        })
    }

    /// What is to be done at `now`, if anything.
    pub fn next(&self, now: u64, held: &Held, patience: Patience) -> Option<Step> {
        if let Some(gone) = self.keys.iter().find(|key| is_over(key, now, held)) {
            return Some(Step::Forget(gone.id.clone()));
        }
        // A key that somebody else may hold as well is worse than a few who have to come again.
        let urgent = self.active().is_none_or(|active| active.tainted.is_some() || active.not_after <= now);
        match self.published() {
            Some((key, sequence, since)) => {
                let everybody = held.lowest.is_none_or(|lowest| lowest >= sequence);
                let ready = everybody && (urgent || now >= since.saturating_add(patience.fetchers));
                ready.then(|| Step::Activate(key.id.clone()))
            }
            None => {
                let due = self.active().is_none_or(|active| now >= half_life(active) || now < active.not_before);
                (urgent || due || self.asked.is_some()).then_some(Step::Publish)
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
    /// There is no such key waiting to.
    pub fn activate(&mut self, id: &str, now: u64, patience: Patience) -> Result<(), UnknownKey> {
        let waits = |key: &Key| key.id == id && matches!(key.phase, Phase::Published { .. });
        if !self.keys.iter().any(waits) {
            return Err(UnknownKey(id.to_owned()));
        }
        for key in &mut self.keys {
            key.phase = match key.phase {
                Phase::Published { .. } if key.id == id => Phase::Active { since: now },
                Phase::Active { .. } => Phase::Retired { until: now.saturating_add(patience.longest) },
                other => other,
            };
        }
        Ok(())
    }
}

impl Trust {
    /// Publishes a key that was made.
    pub fn publish(&mut self, kind: Kind, made: Made, now: u64) {
        self.sequence += 1;
        let Made { id, public, not_before, not_after, vouched } = made;
        let phase = Phase::Published { sequence: self.sequence, since: now };
        let lineage = self.lineage_mut(kind);
        lineage.asked = None;
        lineage.keys.push(Key { id, public, not_before, not_after, vouched, phase, tainted: None });
    }

    /// Publishes a key no longer.
    ///
    /// # Errors
    /// There is no such key.
    pub fn forget(&mut self, kind: Kind, id: &str) -> Result<(), UnknownKey> {
        let keys = &mut self.lineage_mut(kind).keys;
        let at = keys.iter().position(|key| key.id == id).ok_or_else(|| UnknownKey(id.to_owned()))?;
        keys.remove(at);
        self.sequence += 1;
        Ok(())
    }

    /// Takes note that nothing that a key signed is to be trusted. One that has signed nothing yet is forgotten at once.
    ///
    /// # Errors
    /// There is no such key.
    pub fn taint(&mut self, kind: Kind, id: &str, reason: &str) -> Result<(), UnknownKey> {
        let keys = &mut self.lineage_mut(kind).keys;
        let key = keys.iter_mut().find(|key| key.id == id).ok_or_else(|| UnknownKey(id.to_owned()))?;
        if matches!(key.phase, Phase::Published { .. }) {
            return self.forget(kind, id);
        }
        key.tainted.get_or_insert_with(|| reason.to_owned());
        Ok(())
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
fn is_over(key: &Key, now: u64, held: &Held) -> bool {
    match key.phase {
        Phase::Retired { until } => now >= until || key.tainted.is_some() && !held.under.contains(&key.id),
        _ => false,
    }
}

/// A key is followed by another when half of its life is over.
fn half_life(key: &Key) -> u64 {
    key.not_before + key.not_after.saturating_sub(key.not_before) / 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATIENCE: Patience = Patience { longest: 100, fetchers: 20 };

    fn held(lowest: u64, under: &[&str]) -> Held {
        Held { lowest: Some(lowest), under: under.iter().map(|id| (*id).to_owned()).collect() }
    }

    fn made(id: impl Into<String>, not_before: u64, not_after: u64) -> Made {
        Made { id: id.into(), not_before, not_after, ..Made::default() }
    }

    fn of(lineage: &Lineage) -> Vec<&str> {
        let phase = |key: &Key| match key.phase {
            Phase::Published { .. } => "published",
            Phase::Active { .. } => "active",
            Phase::Retired { .. } => "retired",
        };
        lineage.keys.iter().map(phase).collect()
    }

    /// A trust domain whose first root is `a`, from 0 to 1000.
    fn first() -> Trust {
        let mut trust = Trust::default();
        assert_eq!(trust.x509.next(0, &Held::default(), PATIENCE), Some(Step::Publish));
        trust.publish(Kind::X509, made("a", 0, 1000), 0);
        let step = trust.x509.next(0, &Held::default(), PATIENCE);
        assert_eq!(step, Some(Step::Activate("a".into())), "nobody has to be waited for");
        trust.x509.activate("a", 0, PATIENCE).unwrap();
        trust
    }

    #[test]
    fn a_root_is_followed_at_half_life_once_everybody_holds_its_successor() {
        let mut trust = first();
        assert_eq!(trust.x509.next(499, &held(1, &["a"]), PATIENCE), None);
        assert_eq!(trust.x509.next(500, &held(1, &["a"]), PATIENCE), Some(Step::Publish));
        trust.publish(Kind::X509, made("b", 500, 1500), 500);
        assert_eq!(trust.sequence, 2);
        assert_eq!(trust.x509.next(600, &held(1, &["a"]), PATIENCE), None, "one does not hold it");
        assert_eq!(trust.x509.next(519, &held(2, &["a"]), PATIENCE), None, "those who fetch may not");
        let step = trust.x509.next(520, &held(2, &["a"]), PATIENCE);
        assert_eq!(step, Some(Step::Activate("b".into())));
        trust.x509.activate("b", 520, PATIENCE).unwrap();
        assert_eq!(of(&trust.x509), ["retired", "active"]);
        assert_eq!(trust.x509.next(619, &held(2, &["b"]), PATIENCE), None, "what `a` signed may live");
        let step = trust.x509.next(620, &held(2, &["b"]), PATIENCE);
        assert_eq!(step, Some(Step::Forget("a".into())));
        trust.forget(Kind::X509, "a").unwrap();
        assert_eq!((of(&trust.x509), trust.sequence), (vec!["active"], 3));
    }

    #[test]
    fn a_tainted_root_goes_as_soon_as_nobody_lives_by_it() {
        let mut trust = first();
        trust.taint(Kind::X509, "a", "the backup was stolen").unwrap();
        assert_eq!(trust.x509.next(10, &held(1, &["a"]), PATIENCE), Some(Step::Publish));
        trust.publish(Kind::X509, made("b", 10, 1010), 10);
        assert_eq!(trust.x509.next(10, &held(1, &["a"]), PATIENCE), None, "calls would fail");
        let step = trust.x509.next(11, &held(2, &["a"]), PATIENCE);
        assert_eq!(step, Some(Step::Activate("b".into())), "fetchers are not waited for");
        trust.x509.activate("b", 11, PATIENCE).unwrap();
        assert_eq!(trust.x509.next(12, &held(2, &["a", "b"]), PATIENCE), None);
        assert_eq!(trust.x509.next(13, &held(2, &["b"]), PATIENCE), Some(Step::Forget("a".into())));
    }

    #[test]
    fn a_key_that_has_signed_nothing_is_forgotten_when_it_is_tainted() {
        let mut trust = first();
        trust.x509.ask("a drill");
        assert_eq!(trust.x509.next(10, &held(1, &["a"]), PATIENCE), Some(Step::Publish));
        trust.publish(Kind::X509, made("b", 10, 1010), 10);
        trust.x509.ask("another");
        assert_eq!(trust.x509.next(11, &held(1, &["a"]), PATIENCE), None, "one at a time");
        trust.taint(Kind::X509, "b", "seen in a log").unwrap();
        assert_eq!((of(&trust.x509), trust.sequence), (vec!["active"], 3));
        assert_eq!(trust.taint(Kind::X509, "b", "again"), Err(UnknownKey("b".into())));
        assert_eq!(trust.x509.activate("b", 12, PATIENCE), Err(UnknownKey("b".into())));
    }

    proptest! {
        /// Whatever happens in which order: what somebody lives by is published, a key signs only when everybody holds it, and of each
        /// kind one key signs.
        #[test]
        fn nobody_is_ever_left_without_a_root(events in prop::collection::vec((0u8..6, 0u64..40), 1..200)) {
            let mut trust = first();
            let (mut now, mut names) = (0, 0);
            // One workload that is slow: what it holds, under which key, and until when.
            let (mut holds, mut under, mut ends) = (trust.sequence, "a".to_owned(), 100);
            for (event, time) in events {
                now += time;
                match event {
                    0 => trust.x509.ask(""),
                    1 => holds = trust.sequence,
                    2 => {
                        // A renewal brings the bundle too.
                        holds = trust.sequence;
                        under = trust.x509.active().expect("one signs").id.clone();
                        ends = now + PATIENCE.longest;
                    }
                    3 => {
                        let active = trust.x509.active().expect("one signs").id.clone();
                        trust.taint(Kind::X509, &active, "").unwrap();
                    }
                    _ => {}
                }
                let lives = now < ends;
                let known = if lives { held(holds, &[&under]) } else { Held::default() };
                while let Some(step) = trust.x509.next(now, &known, PATIENCE) {
                    match step {
                        Step::Publish => {
                            names += 1;
                            trust.publish(Kind::X509, made(format!("k{names}"), now, now + 1000), now);
                        }
                        Step::Activate(id) => {
                            let (_, published, _) = trust.x509.published().expect("it waits");
                            prop_assert!(!lives || holds >= published, "it is not known everywhere: {trust:?}");
                            trust.x509.activate(&id, now, PATIENCE).unwrap();
                        }
                        Step::Forget(id) => trust.forget(Kind::X509, &id).unwrap(),
                    }
                }
                prop_assert!(trust.x509.active().is_some());
                prop_assert!(trust.x509.keys().len() <= 20, "{:?}", trust.x509);
                if lives {
                    prop_assert!(trust.x509.keys().iter().any(|key| key.id == under), "lives by {under}: {trust:?}");
                }
            }
        }
    }
}
