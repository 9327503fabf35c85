//! Several servers on one etcd: one root, whoever is first; and none is forgotten while a server issues under it.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use weft_authority::trust::Kind;
use weft_authority::{Authority, BanList, JoinTokens, Lives, TokenError};
use weft_identity::{Banned, Names};
use weft_store::{EtcdFiles, Store};
use weft_tests::etcd::Etcd;

const DOMAIN: &str = "acme.internal";

async fn store(etcd: &Etcd, key: &Path) -> Store {
    Store::connect(&etcd.url().parse().unwrap(), &EtcdFiles::default(), &key.join("root.key")).await.unwrap()
}

async fn open(store: Store, name: &str) -> Arc<Authority> {
    let domain = DOMAIN.parse().unwrap();
    Arc::new(Authority::open(store, domain, name, Lives::default(), SystemTime::now()).await.unwrap())
}

fn roots(authority: &Authority) -> Vec<String> {
    authority.published().borrow().trust.x509.keys().iter().map(|root| root.id.clone()).collect()
}

#[tokio::test]
async fn servers_that_begin_at_once_have_one_root_and_a_stolen_one_stays_until_none_of_them_issues_under_it() {
    let (etcd, key) = (Etcd::start(1), tempfile::tempdir().unwrap());
    let first = store(&etcd, key.path()).await;
    let others = [store(&etcd, key.path()).await, store(&etcd, key.path()).await];
    let (a, b, c) = tokio::join!(open(first.clone(), "a"), open(others[0].clone(), "b"), open(others[1].clone(), "c"));
    let made = roots(&a);
    assert_eq!(made.len(), 1);
    assert_eq!((roots(&b), roots(&c)), (made.clone(), made.clone()));
    assert_eq!(first.list("ca/x509/").await.unwrap().len(), 1, "the keys of those who were slower are gone");
    assert_eq!(first.list("ca/issuing/").await.unwrap().len(), 3);

    let now = SystemTime::now();
    a.taint(Kind::X509, &made[0], "a drill").await.unwrap();
    a.advance(now).await.unwrap();
    // The others have not heard of the next root: it does not sign yet, and who keeps it is known.
    assert_eq!(a.published().borrow().trust.x509.active().map(|root| root.id.clone()), Some(made[0].clone()));
    let behind: Vec<String> = a.behind(now).into_iter().map(|(who, ..)| who).collect();
    assert_eq!(behind, ["server b", "server c"]);
    b.advance(now).await.unwrap();
    c.advance(now).await.unwrap(); // takes over the next root, and it may sign: now all have it
    a.advance(now).await.unwrap();
    let next = a.published().borrow().trust.x509.active().map(|root| root.id.clone()).unwrap();
    assert_ne!(next, made[0]);
    assert!(roots(&a).contains(&made[0]), "b issues under it still");
    b.advance(now).await.unwrap();
    c.advance(now).await.unwrap();
    a.advance(now).await.unwrap();
    // Whoever comes now reads that nobody issues under it any more.
    let again = open(first.clone(), "a").await;
    assert_eq!(roots(&again), [next]);
    assert_eq!(first.list("ca/x509/").await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_server_that_cannot_reach_etcd_issues_nothing_after_a_while_and_again_when_it_can() {
    let (mut etcd, key) = (Etcd::start(1), tempfile::tempdir().unwrap());
    let server = open(store(&etcd, key.path()).await, "a").await;
    let (_live, task) = server.start(Names::default(), Duration::from_secs(3600)).unwrap();
    assert!(server.may_issue().is_ok());
    etcd.kill(0);
    let wait = async |may: bool| {
        while server.may_issue().is_ok() != may {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait(false)).await.expect("it stops");
    let why = server.may_issue().unwrap_err().to_string();
    assert!(why.contains("has not reached the store that it shares"), "{why}");
    etcd.restart(0);
    tokio::time::timeout(Duration::from_secs(30), wait(true)).await.expect("it goes on");
    task.abort();
}

#[tokio::test]
async fn a_token_that_comes_to_three_servers_at_once_is_taken_once_and_a_ban_reaches_them() {
    let (etcd, key) = (Etcd::start(3), tempfile::tempdir().unwrap());
    let mut stores = Vec::new();
    for _ in 0..3 {
        stores.push(store(&etcd, key.path()).await);
    }
    let (board, now) = ("prod/board".parse().unwrap(), SystemTime::now());
    for _ in 0..5 {
        let made = JoinTokens::new(stores[0].clone()).create(&board, [7; 32], Duration::from_secs(60), now).await;
        let token = made.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for at in 0..12u8 {
            let tokens = JoinTokens::new(stores[usize::from(at) % 3].clone());
            let (token, board) = (token.clone(), board.clone());
            tasks.spawn(async move { tokens.redeem(&token, &board, &[at; 32], now).await });
        }
        let results = tasks.join_all().await;
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
        assert!(results.iter().filter_map(|result| result.as_ref().err()).all(|e| matches!(e, TokenError::Used(_))));
    }
    let own = "spiffe://acme.internal/ns/weft/sa/server".parse().unwrap();
    let banned: Banned = "machine:cafe01".parse().unwrap();
    let here = BanList::open(stores[0].clone()).await.unwrap();
    let there = BanList::open(stores[1].clone()).await.unwrap();
    let mut told = there.published();
    let following = tokio::spawn(there.follow());
    here.ban(banned.clone(), "stolen", &own, now).await.unwrap();
    let is_told = told.wait_for(|bans| bans.get(&banned).is_some());
    tokio::time::timeout(Duration::from_secs(2), is_told).await.expect("within 2 s").unwrap();
    here.lift(&banned).await.unwrap();
    let is_lifted = told.wait_for(|bans| bans.is_empty());
    tokio::time::timeout(Duration::from_secs(2), is_lifted).await.expect("within 2 s").unwrap();
    following.abort();
}
