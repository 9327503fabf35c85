//! Leases: what only one replica may do at a time (stepping a canary, renewing a secret).
//!
//! A lease is a key with a holder and an end. In the embedded store the end stands in the value; clocks of replicas may differ a little; a holder must
//! therefore stop well before the end unless it has renewed, and half of the time to live is the usual moment to do so. In etcd it is a lease
//! of etcd's, which counts by etcd's own clock. Each time that a lease is taken it has a greater [`Lease::token`]: whoever is told to do something
//! refuses a token that is less than one it has seen, and so a holder that lost its lease without noticing.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{Store, StoreError, Swap};

/// A held lease. Dropping it does not give it back (that takes a write): it then runs out by itself.
#[derive(Debug)]
pub struct Lease {
    store: Store,
    key: String,
    token: u64,
    held: Held,
}

#[derive(Debug)]
enum Held {
    /// By a value of this holder's, of this revision.
    Value { holder: u64, revision: u64 },
    /// By etcd's lease of this number.
    Etcd(i64),
}

impl Store {
    /// Takes the lease `name` until `now + ttl`, unless another holder has it: then `None`. etcd counts whole seconds, at least 2, from when it
    /// is asked.
    pub async fn lease(&self, name: &str, now: SystemTime, ttl: Duration) -> Result<Option<Lease>, StoreError> {
        let key = format!("lease/{name}");
        let holder: u64 = rand::random();
        let lease = |key, token, held| Some(Lease { store: self.clone(), key, token, held });
        if let Some(etcd) = self.etcd() {
            let taken = etcd.take_lease(&key, holder.to_be_bytes().to_vec(), ttl).await?;
            return Ok(taken.and_then(|(number, token)| lease(key, token, Held::Etcd(number))));
        }
        let present = self.get(&key).await?;
        if present.as_ref().is_some_and(|entry| ends(&entry.value) > millis(now)) {
            return Ok(None);
        }
        let value = encode(holder, now + ttl);
        let swap = self.compare_and_swap(&key, present.map(|entry| entry.revision), Some(value)).await?;
        Ok(match swap {
            Swap::Done(revision) => lease(key, revision, Held::Value { holder, revision }),
            Swap::Conflict(_) => None,
        })
    }
}

impl Lease {
    /// Greater than that of every holder before.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Holds on until `now + ttl` (in etcd: for as long again as it was taken for). `false`: the lease ran out and somebody else may have it, so stop at once.
    pub async fn renew(&mut self, now: SystemTime, ttl: Duration) -> Result<bool, StoreError> {
        match &mut self.held {
            Held::Etcd(number) => match self.store.etcd() {
                Some(etcd) => etcd.keep_lease(*number).await,
                None => Ok(false),
            },
            Held::Value { holder, revision } => {
                let value = encode(*holder, now + ttl);
                match self.store.compare_and_swap(&self.key, Some(*revision), Some(value)).await? {
                    Swap::Done(next) => {
                        *revision = next;
                        Ok(true)
                    }
                    Swap::Conflict(_) => Ok(false),
                }
            }
        }
    }

    /// Gives the lease back, so that the next holder need not wait for its end.
    pub async fn release(self) -> Result<(), StoreError> {
        match (self.held, self.store.etcd()) {
            (Held::Etcd(number), Some(etcd)) => etcd.give_back(number).await,
            (Held::Value { revision, .. }, _) => {
                self.store.compare_and_swap(&self.key, Some(revision), None).await.map(drop)
            }
            (Held::Etcd(_), None) => Ok(()),
        }
    }
}

fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis().try_into().unwrap_or(u64::MAX))
}

/// End in milliseconds after the epoch, then the holder; both big-endian.
fn encode(holder: u64, end: SystemTime) -> Vec<u8> {
    [millis(end).to_be_bytes(), holder.to_be_bytes()].concat()
}

/// An unreadable lease has no end to wait for.
fn ends(value: &[u8]) -> u64 {
    value.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_holder_at_a_time_until_the_end_or_the_release() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let (start, ttl) = (UNIX_EPOCH + Duration::from_secs(1_000_000), Duration::from_secs(10));
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut first = store.lease("ca", start, ttl).await.unwrap().unwrap();
        assert!(store.lease("ca", at(9), ttl).await.unwrap().is_none());
        assert!(store.lease("other", at(9), ttl).await.unwrap().is_some());
        assert!(first.renew(at(9), ttl).await.unwrap());
        assert!(store.lease("ca", at(18), ttl).await.unwrap().is_none());
        let second = store.lease("ca", at(19), ttl).await.unwrap().unwrap();
        assert!(second.token() > first.token());
        assert!(!first.renew(at(19), ttl).await.unwrap(), "the first holder learns that it lost the lease");
        second.release().await.unwrap();
        assert!(store.lease("ca", at(19), ttl).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn of_many_that_ask_at_once_one_gets_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let store = store.clone();
            tasks.spawn(async move { store.lease("x", UNIX_EPOCH, Duration::from_secs(1)).await.unwrap().is_some() });
        }
        assert_eq!(tasks.join_all().await.into_iter().filter(|won| *won).count(), 1);
    }
}
