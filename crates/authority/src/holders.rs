//! Who holds something that lives: for each workload, when its newest certificate ends, under which root it was issued, and which bundle
//! the workload has said to hold.
//!
//! A rotation waits for them. They are kept in the store, so that a server that was started again waits for those who have not come
//! back yet, until their certificates end. What was issued within the last second before a crash can be missing there: such a workload is
//! known by its certificate before, and by itself as soon as it follows again.
//!
//! Where several servers share the store, each takes over what the others write, and is a holder itself while it lives ([`Holders::beat`]): no
//! root signs before every server has it in its bundle, and none is forgotten while a server issues under it.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use weft_model::SpiffeId;
use weft_store::{Change, Event, Store, StoreError};

use crate::trust::{Held, KeyId};

const FOLDER: &str = "holder/";
/// Stands for an identity in the key of a server.
const SERVER: &str = "server";
/// Changes are gathered for so long before they are written.
const GATHER: Duration = Duration::from_millis(200);
/// A server that has not said for so long that it lives is not waited for.
const SERVER_LIFE: u64 = 30;
/// How long others' records are left alone after their end: their newest certificate may not have been heard of yet.
const OTHERS: u64 = 60;
/// The most that are remembered; beyond that, those whose certificates end first are not waited for.
const MOST: usize = 100_000;

/// One workload that holds a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    /// The bundle that it holds.
    pub(crate) sequence: u64,
    /// The root that its certificate was issued under.
    pub(crate) under: KeyId,
    /// The end of its certificate, seconds after the epoch.
    pub(crate) ends: u64,
    /// When that was issued.
    #[serde(default)]
    pub(crate) since: u64,
    /// Its number; empty of what an older version has issued.
    #[serde(default)]
    pub(crate) serial: String,
    /// The machine that it was issued to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) machine: Option<String>,
}

/// A certificate that lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Whose it is.
    pub identity: String,
    /// What the workload calls itself, or the certificate's number where it does not say.
    pub node: String,
    /// The machine that it was issued to, if that proved itself.
    pub machine: Option<String>,
    /// Upper-case hexadecimal; empty of what an older version has issued.
    pub serial: String,
    /// The root that it was issued under.
    pub root: KeyId,
    /// The bundle that its holder has.
    pub bundle: u64,
    /// When it was issued, seconds after the epoch; 0 of what an older version has issued.
    pub since: u64,
    /// When it ends, likewise.
    pub ends: u64,
}

impl Certificate {
    /// Whether it should have been followed by another by now: that is tried from half of its life on.
    pub fn is_late(&self, now: u64) -> bool {
        self.since > 0 && now.saturating_sub(self.since) > self.ends.saturating_sub(self.since) / 4 * 3
    }
}

/// All of them, by a key of their own.
pub(crate) struct Holders {
    store: Store,
    known: Mutex<Known>,
    changed: Notify,
}

/// Hashed, because the keys of thousands differ in their last bytes only.
#[derive(Default)]
struct Known {
    holders: HashMap<String, Holder>,
    unsaved: HashSet<String>,
}

/// By what a holder is told from others: its identity and what it calls itself, or, where it does not say, its certificate's number.
pub(crate) fn key(id: &SpiffeId, node_id: &str, serial: &str) -> String {
    let own = if node_id.is_empty() { serial } else { node_id };
    let own: String = own.chars().take(256).collect();
    format!("{FOLDER}{id} {own}")
}

impl Holders {
    pub(crate) async fn open(store: Store) -> Result<Self, StoreError> {
        let read = |(key, entry): (String, weft_store::Entry)| Some((key, serde_json::from_slice(&entry.value).ok()?));
        let holders = store.list(FOLDER).await?.into_iter().filter_map(read).collect();
        let known = Mutex::new(Known { holders, unsaved: HashSet::new() });
        Ok(Self { store, known, changed: Notify::new() })
    }

    /// This server, one of several, lives, has bundle `sequence` in force and issues under this root. Written after all that was issued under
    /// another before, so whoever reads this knows of those too.
    pub(crate) async fn beat(&self, server: &str, sequence: u64, under: &str, now: u64) -> Result<(), StoreError> {
        let key = format!("{FOLDER}{SERVER} {server}");
        let (under, machine) = (under.to_owned(), None);
        let holder = Holder { sequence, under, ends: now + SERVER_LIFE, since: now, serial: String::new(), machine };
        self.store.put(&key, serde_json::to_vec(&holder).expect("is JSON")).await?;
        self.known().holders.insert(key, holder);
        Ok(())
    }

    /// Reads what all servers have written.
    pub(crate) async fn take_over(&self) -> Result<(), StoreError> {
        let written = self.store.list(FOLDER).await?;
        let mut known = self.known();
        let Known { holders, unsaved } = &mut *known;
        let before = std::mem::take(holders);
        holders.extend(before.into_iter().filter(|(key, _)| unsaved.contains(key)));
        for (key, entry) in written {
            if !unsaved.contains(&key)
                && let Ok(holder) = serde_json::from_slice(&entry.value)
            {
                holders.insert(key, holder);
            }
        }
        drop(known);
        self.changed.notify_one();
        Ok(())
    }

    /// Takes over what other servers write, until it is aborted.
    pub(crate) async fn follow(&self) {
        let mut watch = self.store.watch(FOLDER);
        loop {
            while let Err(error) = self.take_over().await {
                tracing::warn!(%error, "what other servers have issued cannot be read; trying again");
                tokio::time::sleep(GATHER).await;
            }
            while let Some(event) = watch.next().await {
                self.heard(event);
            }
        }
    }

    /// What this server has changed and not written yet stays as it is.
    fn heard(&self, event: Event) {
        let mut known = self.known();
        if known.unsaved.contains(&*event.key) {
            return;
        }
        let changed = match event.change {
            Change::Deleted => known.holders.remove(&*event.key).is_some(),
            Change::Put(value) => match serde_json::from_slice::<Holder>(&value) {
                Ok(holder) => {
                    let before = known.holders.insert(event.key.to_string(), holder.clone());
                    // Only its end is later: nobody waits for that.
                    before.is_none_or(|before| (before.sequence, before.under) != (holder.sequence, holder.under))
                }
                Err(_) => false,
            },
        };
        drop(known);
        if changed {
            self.changed.notify_one();
        }
    }

    /// A certificate was issued, and with it went the bundle.
    pub(crate) fn issued(&self, key: String, holder: Holder, now: u64) {
        let mut known = self.known();
        if known.holders.len() >= MOST && !known.holders.contains_key(&key) {
            known.forget(now);
        }
        known.unsaved.insert(key.clone());
        known.holders.insert(key, holder);
        drop(known);
        self.changed.notify_one();
    }

    /// A holder says which bundle it has.
    pub(crate) fn holds(&self, key: &str, sequence: u64) {
        let raised = self.known().raise(key, sequence);
        if raised {
            self.changed.notify_one();
        }
    }

    /// All who call themselves `node`, whatever their identities, have this bundle.
    pub(crate) fn holds_through(&self, node: &str, sequence: u64) {
        let mut known = self.known();
        let is_theirs = |key: &&String| key.split_once(' ').is_some_and(|(_, own)| own == node);
        let theirs: Vec<String> = known.holders.keys().filter(is_theirs).cloned().collect();
        let raised = theirs.iter().filter(|key| known.raise(key, sequence)).count();
        drop(known);
        if raised > 0 {
            self.changed.notify_one();
        }
    }

    /// Whether a holder has a certificate that lives.
    pub(crate) fn holds_one(&self, key: &str, now: u64) -> bool {
        self.known().holders.get(key).is_some_and(|holder| holder.ends >= now)
    }

    /// The root that a holder's certificate was issued under.
    pub(crate) fn under(&self, key: &str) -> Option<KeyId> {
        self.known().holders.get(key).map(|holder| holder.under.clone())
    }

    /// What all of them hold whose certificates have not ended.
    pub(crate) fn held(&self, now: u64) -> Held {
        let mut held = Held::default();
        for holder in self.known().holders.values().filter(|holder| holder.ends >= now) {
            held.lowest = Some(held.lowest.map_or(holder.sequence, |lowest| lowest.min(holder.sequence)));
            if !held.under.contains(&holder.under) {
                held.under.insert(holder.under.clone());
            }
        }
        held
    }

    /// Those who do not hold `sequence` yet, for whoever asks why a rotation takes so long.
    pub(crate) fn behind(&self, sequence: u64, now: u64) -> Vec<(String, Holder)> {
        let known = self.known();
        let late = known.holders.iter().filter(|(_, holder)| holder.ends >= now && holder.sequence < sequence);
        let mut late: Vec<_> = late.map(|(key, holder)| (key[FOLDER.len()..].to_owned(), holder.clone())).collect();
        late.sort_by(|one, other| one.0.cmp(&other.0));
        late
    }

    /// All certificates that live, by identity and by what the workloads call themselves.
    pub(crate) fn certificates(&self, now: u64) -> Vec<Certificate> {
        let known = self.known();
        let living = known.holders.iter().filter(|(_, holder)| holder.ends >= now);
        let certificate = |(key, holder): (&String, &Holder)| {
            let (identity, node) = key[FOLDER.len()..].split_once(' ')?;
            (identity != SERVER).then(|| Certificate {
                identity: identity.to_owned(),
                node: node.to_owned(),
                machine: holder.machine.clone(),
                serial: holder.serial.clone(),
                root: holder.under.clone(),
                bundle: holder.sequence,
                since: holder.since,
                ends: holder.ends,
            })
        };
        let mut living: Vec<_> = living.filter_map(certificate).collect();
        living.sort_by(|one, other| (&one.identity, &one.node).cmp(&(&other.identity, &other.node)));
        living
    }

    /// Wakes up when somebody holds more than before.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
        tokio::time::sleep(GATHER).await;
    }

    /// Writes what changed, and forgets those whose certificates have ended.
    pub(crate) async fn save(&self, now: u64) -> Result<(), StoreError> {
        let writes: Vec<(String, Option<Vec<u8>>)> = {
            let mut known = self.known();
            known.forget(if self.store.is_shared() { now.saturating_sub(OTHERS) } else { now });
            let keys = std::mem::take(&mut known.unsaved);
            let value =
                |key: &String| known.holders.get(key).map(|holder| serde_json::to_vec(holder).expect("is JSON"));
            keys.into_iter().map(|key| (key.clone(), value(&key))).collect()
        };
        if writes.is_empty() {
            return Ok(());
        }
        let keys: Vec<String> = writes.iter().map(|(key, _)| key.clone()).collect();
        let written = self.store.write_all(writes).await;
        if written.is_err() {
            self.known().unsaved.extend(keys);
        }
        written
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Whether a holder has said more than before.
    fn raise(&mut self, key: &str, sequence: u64) -> bool {
        let Some(holder) = self.holders.get_mut(key).filter(|holder| holder.sequence < sequence) else { return false };
        holder.sequence = sequence;
        self.unsaved.insert(key.to_owned());
        true
    }

    /// Drops those whose certificates have ended, and, if there are too many all the same, those whose certificates end first.
    fn forget(&mut self, now: u64) {
        let Self { holders, unsaved } = self;
        holders.retain(|key, holder| {
            let lives = holder.ends >= now;
            if !lives {
                unsaved.insert(key.clone());
            }
            lives
        });
        while holders.len() >= MOST {
            let first = holders.iter().min_by_key(|(_, holder)| holder.ends).map(|(key, _)| key.clone());
            let Some(first) = first else { return };
            holders.remove(&first);
            unsaved.insert(first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(sequence: u64, under: &str, ends: u64) -> Holder {
        let machine = Some("cafe01".to_owned());
        Holder { sequence, under: under.into(), ends, since: 1, serial: "0A".into(), machine }
    }

    #[tokio::test]
    async fn the_slowest_counts_until_its_certificate_ends_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let holders = Holders::open(store.clone()).await.unwrap();
        assert_eq!(holders.held(0), Held::default());
        let id: SpiffeId = "spiffe://acme.internal/ns/prod/sa/web".parse().unwrap();
        let (one, two) = (key(&id, "prod/web~1", "0A"), key(&id, "", "0B"));
        holders.issued(one.clone(), holder(1, "a", 100), 0);
        holders.issued(two.clone(), holder(2, "b", 50), 0);
        let both = Held { lowest: Some(1), under: ["a".to_owned(), "b".to_owned()].into() };
        assert_eq!(holders.held(50), both);
        holders.save(0).await.unwrap();
        let holders = Holders::open(store.clone()).await.unwrap();
        assert_eq!(holders.held(50), both);
        holders.beat("one", 1, "a", 40).await.unwrap();
        let living: Vec<(String, bool)> =
            holders.certificates(51).into_iter().map(|one| (one.node.clone(), one.is_late(51))).collect();
        assert_eq!(living, [("prod/web~1".to_owned(), false)], "no server, and nothing that has ended");
        let [last] = &holders.certificates(99)[..] else { panic!("one lives") };
        assert!(!last.is_late(73) && last.is_late(74) && last.identity == id.as_str() && last.serial == "0A");
        holders.store.delete("holder/server one").await.unwrap();
        holders.take_over().await.unwrap();
        assert_eq!(holders.behind(2, 50).len(), 1);
        holders.holds(&one, 3);
        holders.holds(&one, 2);
        holders.holds("holder/nobody", 9);
        assert_eq!(holders.held(51), Held { lowest: Some(3), under: ["a".to_owned()].into() });
        holders.save(51).await.unwrap();
        assert_eq!(store.list(FOLDER).await.unwrap().len(), 1, "whose certificate has ended is forgotten");
        assert_eq!(holders.under(&one).as_deref(), Some("a"));
    }
}
