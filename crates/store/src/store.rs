//! The store as the rest of Weft sees it; which engine keeps the bytes is decided when it is opened.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::StoreError;
use crate::embedded::{Embedded, Expect};
use crate::entry::{Entry, Swap};
use crate::seal::Sealer;
use crate::watch::{Watch, Watchers};

/// Proves at open that the root key is the one that sealed this store.
const CANARY: &str = "store/canary";

/// Which engine keeps the bytes. etcd becomes a second variant.
#[derive(Debug)]
enum Engine {
    Embedded(Embedded),
}

#[derive(Debug)]
struct Inner {
    engine: Engine,
    sealer: Sealer,
    watchers: Watchers,
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
        let watchers = Watchers::new();
        match engine.get(CANARY)? {
            Some(canary) => {
                sealer.open_sealed(CANARY, &canary.value).map_err(|_| StoreError::WrongRootKey(root_key))?;
            }
            None => {
                engine.write(CANARY, Expect::Anything, Some(&sealer.seal(CANARY, b"weft")), &watchers)?;
            }
        }
        Ok(Self { inner: Arc::new(Inner { engine: Engine::Embedded(engine), sealer, watchers }) })
    }

    /// The value of a key.
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let key = key.to_owned();
        self.run(move |inner| match &inner.engine {
            Engine::Embedded(engine) => engine.get(&key),
        })
        .await
    }

    /// Every key that starts with `prefix`, sorted.
    pub async fn list(&self, prefix: &str) -> Result<Vec<(String, Entry)>, StoreError> {
        let prefix = prefix.to_owned();
        self.run(move |inner| match &inner.engine {
            Engine::Embedded(engine) => engine.list(&prefix),
        })
        .await
    }

    /// Writes a key, whatever it held; returns the revision. On disk when it returns.
    pub async fn put(&self, key: &str, value: Vec<u8>) -> Result<u64, StoreError> {
        match self.write(key, Expect::Anything, Some(value)).await? {
            Swap::Done(revision) => Ok(revision),
            Swap::Conflict(_) => unreachable!("an unconditional put has no conflict"),
        }
    }

    /// Deletes a key; whether it was there.
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

    /// Writes many keys, whatever they held (`None` deletes), all of them or none; on disk when it returns.
    pub async fn write_all(&self, writes: Vec<(String, Option<Vec<u8>>)>) -> Result<(), StoreError> {
        self.run(move |inner| match &inner.engine {
            Engine::Embedded(engine) => engine.write_all(&writes, &inner.watchers),
        })
        .await
    }

    /// Follows the writes under `prefix` from now on.
    pub fn watch(&self, prefix: &str) -> Watch {
        self.inner.watchers.watch(prefix)
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
        let key = key.to_owned();
        self.run(move |inner| match &inner.engine {
            Engine::Embedded(engine) => engine.write(&key, expect, value.as_deref(), &inner.watchers),
        })
        .await
    }

    /// The engine waits for the disk, so it works on the runtime's blocking threads.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = self.inner.clone();
        tokio::task::spawn_blocking(move || work(&inner)).await.map_err(|_| StoreError::ShuttingDown)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::Change;

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
    async fn many_writes_are_one_step_and_each_has_its_revision() {
        let (_folder, store) = fresh();
        store.put("a/1", b"x".to_vec()).await.unwrap();
        let mut watch = store.watch("a/");
        let writes = [("a/1", None), ("a/2", Some(b"y".to_vec())), ("a/3", Some(b"z".to_vec())), ("a/9", None)];
        store.write_all(writes.map(|(key, value)| (key.to_owned(), value)).to_vec()).await.unwrap();
        let left = store.list("a/").await.unwrap();
        assert_eq!(left.iter().map(|(key, _)| &**key).collect::<Vec<_>>(), ["a/2", "a/3"]);
        assert!(left[0].1.revision < left[1].1.revision);
        let seen = [watch.next().await.unwrap().key, watch.next().await.unwrap().key, watch.next().await.unwrap().key];
        assert_eq!(seen.map(|key| key.to_string()), ["a/1", "a/2", "a/3"], "what was not there is not deleted");
    }

    #[tokio::test]
    async fn listing_takes_exactly_the_prefix_in_order() {
        let (_folder, store) = fresh();
        for key in ["b/2", "a", "b/1", "b", "b0", "b/", "c"] {
            store.put(key, key.into()).await.unwrap();
        }
        let keys: Vec<_> = store.list("b/").await.unwrap().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["b/", "b/1", "b/2"]);
    }

    #[tokio::test]
    async fn of_many_swaps_from_one_revision_exactly_one_wins() {
        let (_folder, store) = fresh();
        let at = store.put("k", b"0".to_vec()).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..32u8 {
            let store = store.clone();
            tasks.spawn(async move { store.compare_and_swap("k", Some(at), Some(vec![writer])).await.unwrap() });
        }
        let wins = tasks.join_all().await.into_iter().filter(|swap| matches!(swap, Swap::Done(_))).count();
        assert_eq!(wins, 1);
        assert!(matches!(store.compare_and_swap("k", None, Some(vec![])).await.unwrap(), Swap::Conflict(Some(_))));
        assert!(matches!(store.compare_and_swap("new", None, Some(vec![])).await.unwrap(), Swap::Done(_)));
        assert_eq!(store.compare_and_swap("none", None, None).await.unwrap(), Swap::Conflict(None));
    }

    #[tokio::test]
    async fn a_watch_sees_the_writes_under_its_prefix_in_order() {
        let (_folder, store) = fresh();
        let mut watch = store.watch("a/");
        store.put("b/1", vec![]).await.unwrap();
        store.put("a/1", b"x".to_vec()).await.unwrap();
        store.delete("a/1").await.unwrap();
        let (put, deleted) = (watch.next().await.unwrap(), watch.next().await.unwrap());
        assert_eq!((&*put.key, put.change), ("a/1", Change::Put(b"x"[..].into())));
        assert_eq!((&*deleted.key, deleted.change), ("a/1", Change::Deleted));
        assert_eq!(deleted.revision, put.revision + 1);
        for _ in 0..2000 {
            store.inner.watchers.tell(crate::Event { key: "a/x".into(), revision: 0, change: Change::Deleted });
        }
        assert_eq!(watch.next().await, None, "a watcher that fell behind is told to list again");
    }

    #[tokio::test]
    async fn a_sealed_value_that_was_changed_or_moved_does_not_open() {
        let (_folder, store) = fresh();
        store.put_sealed("ca/root", b"key").await.unwrap();
        let mut bytes = store.get("ca/root").await.unwrap().unwrap().value;
        store.put("ca/other", bytes.clone()).await.unwrap();
        assert!(matches!(store.get_sealed("ca/other").await, Err(StoreError::Tampered(_))));
        *bytes.last_mut().unwrap() ^= 1;
        store.put("ca/root", bytes).await.unwrap();
        assert!(matches!(store.get_sealed("ca/root").await, Err(StoreError::Tampered(_))));
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
