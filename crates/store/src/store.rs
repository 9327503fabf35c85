//! The store as the rest of Weft sees it; which engine keeps the bytes is decided when it is opened.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::StoreError;
use crate::embedded::Embedded;
use crate::entry::{Entry, Expect, Swap};
use crate::etcd::{Etcd, EtcdAddress, EtcdFiles};
use crate::seal::Sealer;
use crate::watch::{Watch, Watchers};

/// Proves at open that the root key is the one that sealed this store.
const CANARY: &str = "store/canary";

/// Which engine keeps the bytes.
#[derive(Debug)]
enum Engine {
    Embedded(Arc<Embedded>),
    Etcd(Etcd),
}

#[derive(Debug)]
struct Inner {
    engine: Engine,
    sealer: Sealer,
    watchers: Arc<Watchers>,
}

/// A handle to the store; clones share it. All methods may be called from any task at once.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

impl Store {
    /// Opens the store in `folder`, made with mode 0700 if it does not exist: the database `weft.redb` and the file `root.key`
    /// under which secret values are sealed. Blocks for the duration of a few file operations.
    ///
    /// # Errors
    /// When another process has it open, the files cannot be used, or `root.key` is exposed or not the store's own.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(StoreError::file("make", folder))?;
        let database = folder.join("weft.redb");
        fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&database)
            .map_err(StoreError::file("open", &database))?;
        let engine = Embedded::open(&database)?;
        let root_key: PathBuf = folder.join("root.key");
        if !root_key.exists() && engine.get(CANARY)?.is_some() {
            return Err(StoreError::NoRootKey(root_key)); // a new key would not open what the lost one sealed
        }
        let sealer = Sealer::open(&root_key)?;
        let watchers = Arc::new(Watchers::new());
        match engine.get(CANARY)? {
            Some(canary) => {
                sealer.open_sealed(CANARY, &canary.value).map_err(|_| StoreError::WrongRootKey(root_key))?;
            }
            None => {
                engine.write(CANARY, Expect::Anything, Some(&sealer.seal(CANARY, b"weft")), &watchers)?;
            }
        }
        Ok(Self { inner: Arc::new(Inner { engine: Engine::Embedded(Arc::new(engine)), sealer, watchers }) })
    }

    /// Joins those who keep their store in an etcd. Secret values are sealed under the key in the file `key`, which is the same for all of
    /// them: the first one makes it (mode 0600) if there is none.
    ///
    /// # Errors
    /// When etcd does not answer, or `key` is missing, exposed or not the one that the others have.
    pub async fn connect(address: &EtcdAddress, files: &EtcdFiles, key: &Path) -> Result<Self, StoreError> {
        let watchers = Arc::new(Watchers::new());
        let engine = Etcd::connect(address, files, watchers.clone()).await?;
        let mut canary = engine.get(CANARY).await?.map(|entry| entry.value);
        if !key.exists() && canary.is_some() {
            return Err(StoreError::NoSharedKey(key.to_owned()));
        }
        let sealer = Sealer::open(key)?;
        if canary.is_none() {
            let first = sealer.seal(CANARY, b"weft");
            canary = match engine.write(CANARY, Expect::Revision(None), Some(first)).await? {
                Swap::Conflict(other) => other.map(|entry| entry.value), // another server was quicker, with its own key perhaps
                Swap::Done(_) => None,
            };
        }
        if let Some(canary) = canary {
            let wrong = |_| StoreError::WrongSharedKey { path: key.to_owned(), folder: address.folder.clone() };
            sealer.open_sealed(CANARY, &canary).map_err(wrong)?;
        }
        Ok(Self { inner: Arc::new(Inner { engine: Engine::Etcd(engine), sealer, watchers }) })
    }

    /// Whether other servers may use it too.
    pub fn is_shared(&self) -> bool {
        matches!(self.inner.engine, Engine::Etcd(_))
    }

    /// The value of a key.
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        match &self.inner.engine {
            Engine::Embedded(engine) => {
                let key = key.to_owned();
                self.block(engine, move |engine, _| engine.get(&key)).await
            }
            Engine::Etcd(engine) => engine.get(key).await,
        }
    }

    /// Every key that starts with `prefix`, sorted.
    pub async fn list(&self, prefix: &str) -> Result<Vec<(String, Entry)>, StoreError> {
        match &self.inner.engine {
            Engine::Embedded(engine) => {
                let prefix = prefix.to_owned();
                self.block(engine, move |engine, _| engine.list(&prefix)).await
            }
            Engine::Etcd(engine) => engine.list(prefix).await,
        }
    }

    /// Writes a key, whatever it held; returns the revision. On disk when it returns.
    pub async fn put(&self, key: &str, value: Vec<u8>) -> Result<u64, StoreError> {
        match self.write(key, Expect::Anything, Some(value)).await? {
            Swap::Done(revision) => Ok(revision),
            Swap::Conflict(_) => unreachable!("an unconditional put has no conflict"),
        }
    }

    /// Deletes a key; whether it was there. (Where etcd had to be asked twice, `false` may also mean that it is gone since the first time.)
    pub async fn delete(&self, key: &str) -> Result<bool, StoreError> {
        Ok(matches!(self.write(key, Expect::Anything, None).await?, Swap::Done(_)))
    }

    /// Writes `value` (`None` deletes) only if the key's revision is `expected` (`None`: only if there is no such key).
    pub async fn compare_and_swap(
        &self,
        key: &str,
        expected: Option<u64>,
        value: Option<Vec<u8>>,
    ) -> Result<Swap, StoreError> {
        self.write(key, Expect::Revision(expected), value).await
    }

    /// Writes many keys, whatever they held (`None` deletes); on disk when it returns. All of them or none, but in etcd, which takes no more
    /// than 128 writes or 1.5 MiB at once, in steps of so much. Writes of one step share a revision there.
    pub async fn write_all(&self, writes: Vec<(String, Option<Vec<u8>>)>) -> Result<(), StoreError> {
        match &self.inner.engine {
            Engine::Embedded(engine) => {
                self.block(engine, move |engine, watchers| engine.write_all(&writes, watchers)).await
            }
            Engine::Etcd(engine) => engine.write_all(writes).await,
        }
    }

    /// Follows the writes under `prefix` from now on, those of other servers too.
    pub fn watch(&self, prefix: &str) -> Watch {
        let after = match &self.inner.engine {
            Engine::Embedded(_) => 0, // a write is told before it returns
            Engine::Etcd(engine) => engine.seen(),
        };
        self.inner.watchers.watch(prefix, after)
    }

    /// Seals `plain` for `key`, to be written there by [`put`](Self::put) or [`compare_and_swap`](Self::compare_and_swap).
    pub fn seal(&self, key: &str, plain: &[u8]) -> Vec<u8> {
        self.inner.sealer.seal(key, plain)
    }

    /// Opens what was sealed for `key`.
    pub fn unseal(&self, key: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        self.inner.sealer.open_sealed(key, sealed)
    }

    /// [`put`](Self::put), sealed.
    pub async fn put_sealed(&self, key: &str, plain: &[u8]) -> Result<u64, StoreError> {
        self.put(key, self.seal(key, plain)).await
    }

    /// [`get`](Self::get) of what was put sealed.
    ///
    /// # Errors
    /// [`StoreError::Tampered`] when the bytes are not what this store sealed under this very key.
    pub async fn get_sealed(&self, key: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        self.get(key).await?.map(|entry| self.unseal(key, &entry.value)).transpose()
    }

    async fn write(&self, key: &str, expect: Expect, value: Option<Vec<u8>>) -> Result<Swap, StoreError> {
        match &self.inner.engine {
            Engine::Embedded(engine) => {
                let key = key.to_owned();
                self.block(engine, move |engine, watchers| engine.write(&key, expect, value.as_deref(), watchers)).await
            }
            Engine::Etcd(engine) => engine.write(key, expect, value).await,
        }
    }

    /// The etcd that it is in, for what only etcd has.
    pub(crate) fn etcd(&self) -> Option<&Etcd> {
        match &self.inner.engine {
            Engine::Embedded(_) => None,
            Engine::Etcd(engine) => Some(engine),
        }
    }

    /// The embedded engine waits for the disk, so it works on the runtime's blocking threads.
    async fn block<T: Send + 'static>(
        &self,
        engine: &Arc<Embedded>,
        work: impl FnOnce(&Embedded, &Watchers) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (engine, watchers) = (engine.clone(), self.inner.watchers.clone());
        tokio::task::spawn_blocking(move || work(&engine, &watchers)).await.map_err(|_| StoreError::ShuttingDown)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        (folder, store)
    }

    #[tokio::test]
    async fn what_is_written_survives_a_restart_and_revisions_go_on() {
        let (folder, store) = fresh();
        let first = store.put("a/1", b"x".to_vec()).await.unwrap();
        store.put_sealed("a/2", b"secret").await.unwrap();
        assert!(store.delete("a/1").await.unwrap());
        assert!(!store.delete("a/1").await.unwrap());
        assert!(matches!(Store::open(folder.path()), Err(StoreError::InUse(_))));
        drop(store);
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.get("a/1").await.unwrap(), None);
        assert_eq!(&**store.get_sealed("a/2").await.unwrap().unwrap(), b"secret");
        assert!(store.put("a/1", b"y".to_vec()).await.unwrap() > first + 2);
    }

    #[tokio::test]
    async fn a_watcher_that_fell_behind_is_told_to_list_again() {
        let (_folder, store) = fresh();
        let mut watch = store.watch("a/");
        for revision in 1..2000 {
            let change = crate::watch::Change::Deleted;
            store.inner.watchers.tell(crate::Event { key: "a/x".into(), revision, change });
        }
        assert_eq!(watch.next().await, None);
        assert!(watch.next().await.is_some_and(|event| event.revision > 1), "and then follows on");
    }

    #[test]
    fn a_damaged_database_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        drop(Store::open(folder.path()).unwrap());
        fs::write(folder.path().join("weft.redb"), "not a database".repeat(1_000)).unwrap();
        let told = Store::open(folder.path()).unwrap_err().to_string();
        assert!(told.contains("weft.redb is damaged or no store of weft") && told.contains("copy"), "{told}");
    }

    #[tokio::test]
    async fn a_lost_or_foreign_root_key_is_an_error_at_open_and_nothing_is_made_in_its_place() {
        let (folder, store) = fresh();
        drop(store);
        let key = folder.path().join("root.key");
        let original = fs::read(&key).unwrap();
        fs::remove_file(&key).unwrap();
        assert!(matches!(Store::open(folder.path()), Err(StoreError::NoRootKey(_))));
        assert!(!key.exists());
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&key).unwrap();
        fs::write(&key, "ab".repeat(32)).unwrap();
        assert!(matches!(Store::open(folder.path()), Err(StoreError::WrongRootKey(_))));
        fs::write(&key, original).unwrap();
        assert!(Store::open(folder.path()).is_ok());
    }

    #[test]
    fn files_are_for_the_owner_only() {
        use std::os::unix::fs::MetadataExt;
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("state");
        let _store = Store::open(&folder).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        for file in ["weft.redb", "root.key"] {
            assert_eq!(fs::metadata(folder.join(file)).unwrap().mode() & 0o777, 0o600, "{file}");
        }
    }
}
