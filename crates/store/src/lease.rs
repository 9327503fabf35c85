//! Leases: what only one replica may do at a time (rotating the CA, stepping a canary).
//!
//! A lease is a key with a holder and an end. Clocks of replicas may differ a little; a holder must therefore stop well before
//! the end unless it has renewed, and half of the time to live is the usual moment to do so.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{Store, StoreError, Swap};

/// A held lease. Dropping it does not give it back (that takes a write): it then runs out by itself.
#[derive(Debug)]
pub struct Lease {
    store: Store,
    key: String,
    holder: u64,
    revision: u64,
}

impl Store {
    /// Takes the lease `name` until `now + ttl`, unless another holder has it: then `None`.
    pub async fn lease(&self, name: &str, now: SystemTime, ttl: Duration) -> Result<Option<Lease>, StoreError> {
        let key = format!("lease/{name}");
        let present = self.get(&key).await?;
        if present.as_ref().is_some_and(|entry| ends(&entry.value) > millis(now)) {
            return Ok(None);
        }
        let holder = rand::random();
        let value = encode(holder, now + ttl);
        let swap = self.compare_and_swap(&key, present.map(|entry| entry.revision), Some(value)).await?;
        Ok(match swap {
            Swap::Done(revision) => Some(Lease { store: self.clone(), key, holder, revision }),
            Swap::Conflict(_) => None,
        })
    }
}

impl Lease {
    /// Holds on until `now + ttl`. `false`: the lease ran out and somebody else took it, so stop at once.
    pub async fn renew(&mut self, now: SystemTime, ttl: Duration) -> Result<bool, StoreError> {
        let value = encode(self.holder, now + ttl);
        match self.store.compare_and_swap(&self.key, Some(self.revision), Some(value)).await? {
            Swap::Done(revision) => {
                self.revision = revision;
                Ok(true)
            }
            Swap::Conflict(_) => Ok(false),
        }
    }

    /// Gives the lease back, so that the next holder need not wait for its end.
    pub async fn release(self) -> Result<(), StoreError> {
        self.store.compare_and_swap(&self.key, Some(self.revision), None).await?;
        Ok(())
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
