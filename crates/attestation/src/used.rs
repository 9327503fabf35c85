//! Which machine a token has served. It stands in the store until the token's end, so that all servers know it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use weft_identity::foreign_jwt::LEEWAY;
use weft_identity::schedule::Sweeps;
use weft_store::{Store, StoreError, Swap};

use crate::certificates::hex;

const FOLDER: &str = "used-jwt/";
/// By how much the clocks of servers may differ.
const CLOCKS: Duration = Duration::from_secs(60);
/// How often those that are over are looked for.
const SWEEP: Duration = Duration::from_secs(10 * 60);

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct UsedTokens {
    store: Store,
    sweeps: Arc<Mutex<Sweeps>>,
}

/// What the store holds of a token, and that is not the token.
#[derive(Debug, Serialize, Deserialize)]
struct Use {
    /// SHA-256 of the key of the machine, hexadecimal.
    machine: String,
    /// When, in seconds after the epoch.
    at: u64,
    /// Until when it stays here, the same.
    until: u64,
}

impl UsedTokens {
    pub(crate) fn new(store: Store) -> Self {
        Self::begun(store, (Instant::now(), SystemTime::now()))
    }

    fn begun(store: Store, begun: (Instant, SystemTime)) -> Self {
        Self { store, sweeps: Arc::new(Mutex::new(Sweeps::every(SWEEP, begun))) }
    }

    /// Has the token serve the machine with this key, and no other until `expires`. Of several that come at once exactly one succeeds. What
    /// comes back is how many seconds ago another machine had it.
    pub(crate) async fn take(
        &self,
        digest: &[u8; 32],
        machine: &[u8],
        expires: SystemTime,
        now: SystemTime,
    ) -> Result<Option<u64>, StoreError> {
        self.sweep(now).await?;
        let (key, at) = (format!("{FOLDER}{}", hex(digest)), seconds(now));
        let until = expires.checked_add(LEEWAY + CLOCKS).map_or(u64::MAX, seconds);
        let own = Use { machine: hex(&Sha256::digest(machine)), at, until };
        let value = serde_json::to_vec(&own).expect("strings and numbers are JSON");
        loop {
            if let Some(entry) = self.store.get(&key).await? {
                // What cannot be read is nobody's.
                let used = serde_json::from_slice::<Use>(&entry.value);
                let another =
                    used.map_or(Some(0), |used| (used.machine != own.machine).then(|| at.saturating_sub(used.at)));
                return Ok(another);
            }
            match self.store.compare_and_swap(&key, None, Some(value.clone())).await? {
                Swap::Done(_) => return Ok(None),
                Swap::Conflict(_) => {} // somebody was quicker: look who
            }
        }
    }

    /// Forgets tokens that are over, now and then, but not while the clock is being set: one that was forgotten could serve another machine.
    async fn sweep(&self, now: SystemTime) -> Result<(), StoreError> {
        if !self.sweeps.lock().unwrap_or_else(PoisonError::into_inner).is_time((Instant::now(), now)) {
            return Ok(());
        }
        for (key, entry) in self.store.list(FOLDER).await? {
            let until = serde_json::from_slice::<Use>(&entry.value).map_or(0, |used| used.until);
            if until < seconds(now) {
                self.store.compare_and_swap(&key, Some(entry.revision), None).await?;
            }
        }
        Ok(())
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_serves_one_machine_until_it_is_over_and_is_then_forgotten() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(folder.path()).expect("a store");
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let end = now + Duration::from_secs(600);
        let used = UsedTokens::new(store.clone());
        let take = |used: UsedTokens, machine: u8, now| async move {
            used.take(&[1; 32], &[machine], end, now).await.expect("a store")
        };
        assert_eq!(take(used.clone(), 1, now).await, None);
        assert_eq!(take(used.clone(), 1, end).await, None, "the same machine again");
        assert_eq!(take(used.clone(), 2, end).await, Some(600));
        assert_eq!(used.take(&[2; 32], &[2], end, now).await.expect("a store"), None, "another token");
        let later = end + LEEWAY + CLOCKS + Duration::from_secs(1);
        let set = UsedTokens::begun(store.clone(), (Instant::now() - SWEEP, now - SWEEP));
        assert_eq!(take(set, 2, later).await, Some(691), "a clock that was set forward forgets nothing");
        let restarted = UsedTokens::begun(store.clone(), (Instant::now() - SWEEP, later - SWEEP));
        assert_eq!(restarted.take(&[3; 32], &[2], later, later).await.expect("a store"), None);
        assert_eq!(store.list(FOLDER).await.expect("a store").len(), 1, "those that are over are gone");
    }

    #[tokio::test]
    async fn of_many_machines_that_come_at_once_with_one_token_exactly_one_is_served() {
        let folder = tempfile::tempdir().expect("a folder");
        let used = UsedTokens::new(Store::open(folder.path()).expect("a store"));
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let mut tasks = tokio::task::JoinSet::new();
        for machine in 0..32u8 {
            let used = used.clone();
            tasks.spawn(async move { used.take(&[1; 32], &[machine], now, now).await.expect("a store") });
        }
        let taken = tasks.join_all().await;
        assert_eq!(taken.iter().filter(|another| another.is_none()).count(), 1, "{taken:?}");
    }
}
