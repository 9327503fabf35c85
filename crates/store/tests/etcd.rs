//! What is of etcd alone: members that die, history that is forgotten, keys that are not the same, and what it does not take.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use weft_store::{Change, EtcdFiles, Store, StoreError};
use weft_tests::etcd::Etcd;
use weft_tests::pki::Authority;
use weft_tests::ports;

async fn connect(url: &str, key: &Path) -> Result<Store, StoreError> {
    Store::connect(&url.parse().unwrap(), &EtcdFiles::default(), &key.join("root.key")).await
}

/// A counter that two stores write by turns, each through its own members.
#[tokio::test]
async fn each_member_may_die_in_turn_and_no_write_or_event_is_lost_or_invented() {
    let (mut etcd, key) = (Etcd::start(3), tempfile::tempdir().unwrap());
    let writer = connect(&etcd.url(), key.path()).await.unwrap();
    let reader = connect(&etcd.url(), key.path()).await.unwrap();
    let mut watch = reader.watch("n/");
    let mut count = 0u32;
    let mut revision = None;
    for member in [0, 1, 2] {
        for at in 0..20 {
            if at == 5 {
                etcd.kill(member);
            }
            let swap = writer.compare_and_swap("n/counter", revision, Some(count.to_be_bytes().to_vec())).await;
            let weft_store::Swap::Done(now) = swap.unwrap() else { panic!("nobody else writes: {count}") };
            revision = Some(now);
            let entry = reader.get("n/counter").await.unwrap().unwrap();
            assert_eq!((entry.value, entry.revision), (count.to_be_bytes().to_vec(), now), "what is written is read");
            count += 1;
        }
        etcd.restart(member);
    }
    for expected in 0..count {
        let event = tokio::time::timeout(Duration::from_secs(20), watch.next()).await;
        let event = event.expect("it comes").expect("nothing was missed");
        assert_eq!(event.change, Change::Put(expected.to_be_bytes()[..].into()));
    }
    let told = Instant::now();
    writer.put("n/last", vec![]).await.unwrap();
    assert_eq!(&*watch.next().await.unwrap().key, "n/last");
    assert!(told.elapsed() < Duration::from_secs(2), "{:?}", told.elapsed());
}

#[tokio::test]
async fn a_majority_that_is_gone_is_an_error_in_bounded_time_and_is_got_over() {
    let (mut etcd, key) = (Etcd::start(3), tempfile::tempdir().unwrap());
    let store = connect(&etcd.url(), key.path()).await.unwrap();
    store.put("a", b"1".to_vec()).await.unwrap();
    etcd.kill(0);
    etcd.kill(1);
    let begun = Instant::now();
    let error = store.get("a").await.unwrap_err().to_string();
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    for member in 0..3 {
        assert!(error.contains(&etcd.client(member).to_string()), "{error}");
    }
    assert!(error.contains("a majority of its members has to run"), "{error}");
    etcd.restart(0);
    assert_eq!(store.get("a").await.unwrap().unwrap().value, b"1");
    let nobody = format!("etcd://{}", ports::free());
    let error = connect(&nobody, key.path()).await.unwrap_err().to_string();
    assert!(error.contains(&nobody["etcd://".len()..]) && error.contains("refused"), "{error}");
}

/// etcd forgets the history of a store that was away for long: its watchers are told to list again, and then hear what follows.
#[tokio::test]
async fn a_watch_that_etcd_has_forgotten_is_told_to_list_again() {
    let (mut etcd, key) = (Etcd::start(1), tempfile::tempdir().unwrap());
    let away = Gate::before(etcd.client(0));
    let store = connect(&format!("etcd://{}", away.address), key.path()).await.unwrap();
    let mut watch = store.watch("a/");
    store.put("a/1", b"x".to_vec()).await.unwrap();
    assert_eq!(&*watch.next().await.unwrap().key, "a/1");
    away.close();
    let other = connect(&etcd.url(), key.path()).await.unwrap();
    for n in 0..5 {
        other.put("a/2", vec![n]).await.unwrap();
    }
    let last = other.put("a/3", vec![]).await.unwrap();
    compact(&etcd, last);
    etcd.kill(0); // so that nothing of the old stream is under way
    etcd.restart(0);
    away.open();
    let missed = tokio::time::timeout(Duration::from_secs(20), watch.next()).await.expect("it is told");
    assert_eq!(missed, None);
    let keys: Vec<_> = store.list("a/").await.unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["a/1", "a/2", "a/3"]);
    let after = store.put("a/4", vec![]).await.unwrap();
    loop {
        let event = watch.next().await.expect("nothing more was missed");
        assert!(event.revision >= last, "older than what was forgotten");
        if event.revision == after {
            assert_eq!(&*event.key, "a/4");
            return;
        }
    }
}

#[tokio::test]
async fn a_server_with_another_key_or_none_is_refused_and_makes_nothing() {
    let (etcd, [first, second]) = (Etcd::start(1), [(); 2].map(|()| tempfile::tempdir().unwrap()));
    let store = connect(&etcd.url(), first.path()).await.unwrap();
    store.put_sealed("ca/root", b"secret").await.unwrap();
    let error = connect(&etcd.url(), second.path()).await.unwrap_err().to_string();
    assert!(error.contains("is missing") && error.contains("copy the file from another server"), "{error}");
    assert!(!second.path().join("root.key").exists());
    // In another folder of the same etcd it begins a mesh of its own, whose key is not this one's.
    connect(&format!("{}/other", etcd.url()), second.path()).await.unwrap();
    let error = connect(&etcd.url(), second.path()).await.unwrap_err().to_string();
    assert!(error.contains("is not the one that sealed the folder `weft`"), "{error}");
    std::fs::copy(first.path().join("root.key"), second.path().join("root.key")).unwrap();
    let other = connect(&etcd.url(), second.path()).await.unwrap();
    assert_eq!(&**other.get_sealed("ca/root").await.unwrap().unwrap(), b"secret");
}

#[tokio::test]
async fn a_value_that_is_too_large_is_refused_with_its_size_and_one_that_just_fits_is_taken() {
    let (etcd, key) = (Etcd::start(1), tempfile::tempdir().unwrap());
    let store = connect(&etcd.url(), key.path()).await.unwrap();
    let most = 1_572_864 - 4_096 - "weft/big".len();
    let error = store.put("big", vec![0; most + 1]).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
    assert!(error.to_string().contains("the value of `big` is too large for etcd"), "{error}");
    store.put("big", vec![1; most]).await.unwrap();
    store.write_all(vec![("big".to_owned(), Some(vec![2; most])), ("b".to_owned(), None)]).await.unwrap();
    assert_eq!(store.get("big").await.unwrap().unwrap().value, vec![2; most]);
}

#[tokio::test]
async fn a_lease_that_nobody_renews_runs_out_and_its_holder_is_told() {
    let (etcd, key) = (Etcd::start(1), tempfile::tempdir().unwrap());
    let store = connect(&etcd.url(), key.path()).await.unwrap();
    let (now, ttl) = (SystemTime::now(), Duration::from_secs(2));
    let mut watch = store.watch("lease/");
    let mut first = store.lease("x", now, ttl).await.unwrap().unwrap();
    assert!(matches!(watch.next().await.unwrap().change, Change::Put(_)));
    assert_eq!(watch.next().await.unwrap().change, Change::Deleted);
    assert!(!first.renew(now, ttl).await.unwrap());
    let second = store.lease("x", now, ttl).await.unwrap().unwrap();
    assert!(second.token() > first.token());
    first.release().await.unwrap(); // changes nothing any more
    assert!(store.lease("x", now, ttl).await.unwrap().is_none());
}

#[tokio::test]
async fn etcd_is_talked_to_by_tls_with_a_certificate_of_its_own_and_another_authority_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::create(folder.path(), "etcd-ca", "etcd.internal");
    let etcd = Etcd::start_with_tls(&authority.server("etcd"));
    let client = authority.issue("client", "spiffe://etcd.internal/weft", 1);
    let address = format!("etcds://{}", etcd.client(0)).parse().unwrap();
    let key = folder.path().join("root.key");
    let files = EtcdFiles {
        ca: Some(authority.certificate().to_owned()),
        certificate: Some(client.certificate.clone()),
        key: Some(client.key.clone()),
    };
    let store = Store::connect(&address, &files, &key).await.unwrap();
    let mut watch = store.watch("a");
    store.put("a", b"1".to_vec()).await.unwrap();
    assert_eq!(watch.next().await.unwrap().change, Change::Put(b"1"[..].into()));

    let other = Authority::create(folder.path(), "other-ca", "etcd.internal");
    let strange = EtcdFiles { ca: Some(other.certificate().to_owned()), ..files.clone() };
    let error = Store::connect(&address, &strange, &key).await.unwrap_err().to_string();
    assert!(error.contains("invalid peer certificate"), "{error}");
    let nobody = EtcdFiles { ca: files.ca.clone(), ..EtcdFiles::default() };
    assert!(matches!(Store::connect(&address, &nobody, &key).await, Err(StoreError::Etcd { .. })));
    let error = Store::connect(&address, &EtcdFiles::default(), &key).await.unwrap_err().to_string();
    assert!(error.contains("--store-ca"), "{error}");
    let half = EtcdFiles { key: None, ..files.clone() };
    assert!(matches!(Store::connect(&address, &half, &key).await, Err(StoreError::HalfEtcdCertificate)));
    let missing = EtcdFiles { ca: Some(folder.path().join("none.pem")), ..files };
    let error = Store::connect(&address, &missing, &key).await.unwrap_err().to_string();
    assert!(error.contains("none.pem"), "{error}");
}

fn compact(etcd: &Etcd, revision: u64) {
    let url = format!("http://{}/v3/kv/compaction", etcd.client(0));
    let body = format!("{{\"revision\": {revision}}}");
    let output = Command::new("curl").args(["-sf", "-X", "POST", &url, "-d", &body]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// A way to a server that can be closed, with all connections that go through it, and opened again.
struct Gate {
    address: std::net::SocketAddr,
    open: tokio::sync::watch::Sender<bool>,
}

impl Gate {
    fn before(target: std::net::SocketAddr) -> Self {
        let address = ports::free();
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let (open, is_open) = tokio::sync::watch::channel(true);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut is_open = is_open.clone();
                tokio::spawn(async move {
                    if !*is_open.borrow_and_update() {
                        return;
                    }
                    let Ok(mut far) = tokio::net::TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = is_open.changed() => {}
                    }
                });
            }
        });
        Self { address, open }
    }

    fn close(&self) {
        self.open.send_replace(false);
    }

    fn open(&self) {
        self.open.send_replace(true);
    }
}
