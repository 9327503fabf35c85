//! Who is banned, kept in the store and told to everybody at once.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use weft_identity::bans::MOST;
use weft_identity::{Ban, Banned, Bans, LiveIdentity};
use weft_model::SpiffeId;
use weft_store::{Store, StoreError};

const FOLDER: &str = "ban/";
/// Whoever is banned hears of it, and why, before this server cuts it off.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Until what could not be read is read again.
const AGAIN: Duration = Duration::from_millis(500);

/// Why a ban was not made or lifted.
#[derive(Debug, thiserror::Error)]
pub enum BanError {
    /// All of them go to every workload.
    #[error("there are {MOST} bans already, which is the most; lift some that are no longer needed")]
    TooMany,
    /// Nobody could run the mesh then.
    #[error("the control plane itself cannot be banned")]
    ControlPlane,
    /// There is no such ban.
    #[error("{0} is not banned")]
    Unknown(Banned),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The bans of a mesh.
#[derive(Clone, Debug)]
pub struct BanList {
    store: Store,
    published: Arc<watch::Sender<Arc<Bans>>>,
    /// One change after the other.
    changing: Arc<tokio::sync::Mutex<()>>,
}

impl BanList {
    /// Those in `store`.
    ///
    /// # Errors
    /// The store failed.
    pub async fn open(store: Store) -> Result<Self, StoreError> {
        let bans = read(&store).await?;
        Ok(Self { store, published: Arc::new(watch::Sender::new(Arc::new(bans))), changing: Arc::default() })
    }

    /// Who is banned, now and after each change.
    pub fn published(&self) -> watch::Receiver<Arc<Bans>> {
        self.published.subscribe()
    }

    /// Nobody is to take them any more. A ban that is there already gets this reason, and keeps its time.
    ///
    /// # Errors
    /// There are too many, it is the control plane, or the store failed: then nothing has changed.
    pub async fn ban(&self, banned: Banned, reason: &str, own: &SpiffeId, now: SystemTime) -> Result<(), BanError> {
        if banned == Banned::Identity(own.clone()) {
            return Err(BanError::ControlPlane);
        }
        let _alone = self.changing.lock().await;
        let present = self.published.borrow().get(&banned).cloned();
        if present.is_none() && self.published.borrow().len() >= MOST {
            return Err(BanError::TooMany);
        }
        let since =
            present.map_or_else(|| now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(), |ban| ban.since);
        let ban = Ban { reason: reason.to_owned(), since };
        let value = serde_json::to_vec(&ban).expect("strings and numbers are JSON");
        self.store.put(&format!("{FOLDER}{banned}"), value).await?;
        tracing::warn!(%banned, reason, "banned");
        self.publish().await
    }

    /// They may be taken again.
    ///
    /// # Errors
    /// There is no such ban, or the store failed.
    pub async fn lift(&self, banned: &Banned) -> Result<(), BanError> {
        let _alone = self.changing.lock().await;
        if !self.store.delete(&format!("{FOLDER}{banned}")).await? {
            return Err(BanError::Unknown(banned.clone()));
        }
        tracing::warn!(%banned, "a ban is lifted");
        self.publish().await
    }

    async fn publish(&self) -> Result<(), BanError> {
        let bans = Arc::new(read(&self.store).await?);
        self.published.send_if_modified(|present| {
            let changed = **present != *bans;
            *present = bans;
            changed
        });
        Ok(())
    }

    /// Takes over what other servers that share the store change, until it is aborted.
    pub async fn follow(self) {
        let mut watch = self.store.watch(FOLDER);
        loop {
            let alone = self.changing.lock().await;
            let taken_over = self.publish().await;
            drop(alone);
            if let Err(error) = taken_over {
                tracing::warn!(%error, "the bans of other servers cannot be read; trying again");
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            watch.next().await; // one of ours, too: it changes nothing
        }
    }

    /// Has the control plane's own connections go by the bans, those of before at once.
    pub async fn enforce(self, own: Arc<LiveIdentity>) {
        let mut published = self.published();
        own.set_bans((**published.borrow_and_update()).clone());
        while published.changed().await.is_ok() {
            tokio::time::sleep(LAST_WORDS).await;
            own.set_bans((**published.borrow_and_update()).clone());
        }
    }
}

async fn read(store: &Store) -> Result<Bans, StoreError> {
    let all = store.list(FOLDER).await?.into_iter().filter_map(|(key, entry)| {
        let banned = key.strip_prefix(FOLDER)?.parse();
        let ban = serde_json::from_slice(&entry.value);
        match (banned, ban) {
            (Ok(banned), Ok(ban)) => Some((banned, ban)),
            _ => {
                tracing::error!(key, "a ban in the store cannot be read, and is not in force");
                None
            }
        }
    });
    Ok(Bans::new(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_ban_is_told_and_outlives_a_restart_until_it_is_lifted() {
        let folder = tempfile::tempdir().unwrap();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let own: SpiffeId = "spiffe://acme.internal/ns/weft-system/sa/server".parse().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let list = BanList::open(store.clone()).await.unwrap();
        let mut told = list.published();
        assert!(told.borrow_and_update().is_empty());
        let machine: Banned = "machine:cafe01".parse().unwrap();
        list.ban(machine.clone(), "stolen", &own, at(5)).await.unwrap();
        list.ban(machine.clone(), "stolen, says Ann", &own, at(9)).await.unwrap();
        let expected = Ban { reason: "stolen, says Ann".to_owned(), since: 5 };
        assert_eq!(told.borrow_and_update().get(&machine), Some(&expected));
        let again = BanList::open(store).await.unwrap();
        assert_eq!(again.published().borrow().get(&machine), Some(&expected));
        list.lift(&machine).await.unwrap();
        assert!(told.borrow_and_update().is_empty());
        assert!(matches!(list.lift(&machine).await, Err(BanError::Unknown(_))));
        let refused = list.ban(Banned::Identity(own.clone()), "oops", &own, at(9)).await;
        assert!(matches!(refused, Err(BanError::ControlPlane)));
    }
}
