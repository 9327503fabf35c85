//! What every store does, wherever it keeps its bytes: each case on the embedded one, and on an etcd of three members.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::path::Path;
use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;
use weft_store::{Change, EtcdFiles, Store, StoreError, Swap};
use weft_tests::etcd::Etcd;

fn embedded() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    (folder, store)
}

async fn in_etcd(etcd: &Etcd, folder: &str, key: &Path) -> Result<Store, StoreError> {
    let address = format!("{}/{folder}", etcd.url()).parse().unwrap();
    Store::connect(&address, &EtcdFiles::default(), &key.join("root.key")).await
}

async fn many_writes_are_one_step(store: Store) {
    store.put("a/1", b"x".to_vec()).await.unwrap();
    let mut watch = store.watch("a/");
    let writes = [("a/1", None), ("a/2", Some(b"y".to_vec())), ("a/3", Some(b"z".to_vec())), ("a/9", None)];
    store.write_all(writes.map(|(key, value)| (key.to_owned(), value)).to_vec()).await.unwrap();
    let left = store.list("a/").await.unwrap();
    assert_eq!(left.iter().map(|(key, _)| &**key).collect::<Vec<_>>(), ["a/2", "a/3"]);
    assert!(left[0].1.revision <= left[1].1.revision);
    let seen = [watch.next().await.unwrap().key, watch.next().await.unwrap().key, watch.next().await.unwrap().key];
    assert_eq!(seen.map(|key| key.to_string()), ["a/1", "a/2", "a/3"], "what was not there is not deleted");
}

/// More than one page and more than one transaction of etcd; a key that is written twice has the later value.
async fn very_many_writes_and_keys(store: Store) {
    let mut writes: Vec<_> = (0..2_500).map(|n| (format!("n/{n:04}"), Some(vec![b'x'; 1_000]))).collect();
    writes.push(("n/0007".to_owned(), Some(b"again".to_vec())));
    store.write_all(writes).await.unwrap();
    let listed = store.list("n/").await.unwrap();
    assert_eq!(listed.len(), 2_500);
    assert!(listed.is_sorted_by_key(|(key, _)| key.clone()));
    assert_eq!(listed[7].1.value, b"again");
}

async fn listing_takes_exactly_the_prefix_in_order(store: Store) {
    for key in ["b/2", "a", "b/1", "b", "b0", "b/", "c"] {
        store.put(key, key.into()).await.unwrap();
    }
    let keys: Vec<_> = store.list("b/").await.unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["b/", "b/1", "b/2"]);
}

async fn of_many_swaps_from_one_revision_exactly_one_wins(store: Store) {
    let at = store.put("k", b"0".to_vec()).await.unwrap();
    assert_eq!(store.get("k").await.unwrap().unwrap().revision, at);
    let mut tasks = JoinSet::new();
    for writer in 0..32u8 {
        let store = store.clone();
        tasks.spawn(async move { store.compare_and_swap("k", Some(at), Some(vec![writer])).await.unwrap() });
    }
    let wins = tasks.join_all().await.into_iter().filter(|swap| matches!(swap, Swap::Done(_))).count();
    assert_eq!(wins, 1);
    let present = store.get("k").await.unwrap();
    assert_eq!(store.compare_and_swap("k", None, Some(vec![])).await.unwrap(), Swap::Conflict(present.clone()));
    assert_eq!(store.compare_and_swap("k", Some(at), None).await.unwrap(), Swap::Conflict(present.clone()));
    let Swap::Done(deleted) = store.compare_and_swap("k", present.map(|entry| entry.revision), None).await.unwrap()
    else {
        panic!("it is as expected")
    };
    assert!(deleted > at && store.get("k").await.unwrap().is_none());
    assert_eq!(store.compare_and_swap("k", Some(at), Some(vec![])).await.unwrap(), Swap::Conflict(None));
    assert!(matches!(store.compare_and_swap("new", None, Some(vec![])).await.unwrap(), Swap::Done(_)));
    assert_eq!(store.compare_and_swap("none", None, None).await.unwrap(), Swap::Conflict(None));
    assert!(store.delete("new").await.unwrap() && !store.delete("new").await.unwrap());
}

async fn a_watch_sees_the_writes_under_its_prefix_in_order(store: Store) {
    store.put("a/0", b"before".to_vec()).await.unwrap();
    let mut watch = store.watch("a/");
    store.put("b/1", vec![]).await.unwrap();
    store.put("a/1", b"x".to_vec()).await.unwrap();
    store.delete("a/1").await.unwrap();
    let (put, deleted) = (watch.next().await.unwrap(), watch.next().await.unwrap());
    assert_eq!((&*put.key, put.change), ("a/1", Change::Put(b"x"[..].into())));
    assert_eq!((&*deleted.key, deleted.change), ("a/1", Change::Deleted));
    assert_eq!(deleted.revision, put.revision + 1);
}

async fn a_sealed_value_that_was_changed_or_moved_does_not_open(store: Store) {
    store.put_sealed("ca/root", b"key").await.unwrap();
    let mut bytes = store.get("ca/root").await.unwrap().unwrap().value;
    assert!(!bytes.windows(3).any(|window| window == b"key"));
    store.put("ca/other", bytes.clone()).await.unwrap();
    assert!(matches!(store.get_sealed("ca/other").await, Err(StoreError::Tampered(_))));
    *bytes.last_mut().unwrap() ^= 1;
    store.put("ca/root", bytes).await.unwrap();
    assert!(matches!(store.get_sealed("ca/root").await, Err(StoreError::Tampered(_))));
}

async fn a_lease_has_one_holder_and_a_greater_token_each_time(store: Store) {
    let (now, ttl) = (SystemTime::now(), Duration::from_secs(60));
    let mut tasks = JoinSet::new();
    for _ in 0..16 {
        let store = store.clone();
        tasks.spawn(async move { store.lease("x", now, ttl).await.unwrap() });
    }
    let mut held: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(held.len(), 1);
    let mut first = held.remove(0);
    assert!(first.renew(now, ttl).await.unwrap());
    let token = first.token();
    first.release().await.unwrap();
    let second = store.lease("x", now, ttl).await.unwrap().unwrap();
    assert!(second.token() > token);
}

macro_rules! on_the_embedded_store {
    ($($case:ident),* $(,)?) => {
        mod on_the_embedded_store {
            $(#[tokio::test]
            async fn $case() {
                let (_folder, store) = super::embedded();
                super::$case(store).await;
            })*
        }

        /// One etcd for all of them: each in a folder of its own.
        #[tokio::test]
        async fn in_an_etcd_of_three_members_all_of_it_is_the_same() {
            let (etcd, key) = (Etcd::start(3), tempfile::tempdir().unwrap());
            $(eprintln!("{}", stringify!($case));
            $case(in_etcd(&etcd, stringify!($case), key.path()).await.unwrap()).await;)*
        }
    };
}

on_the_embedded_store!(
    many_writes_are_one_step,
    very_many_writes_and_keys,
    listing_takes_exactly_the_prefix_in_order,
    of_many_swaps_from_one_revision_exactly_one_wins,
    a_watch_sees_the_writes_under_its_prefix_in_order,
    a_sealed_value_that_was_changed_or_moved_does_not_open,
    a_lease_has_one_holder_and_a_greater_token_each_time,
);
