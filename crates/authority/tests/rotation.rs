//! One root follows another, by plan and in a hurry, while calls go on and nobody is left without a way.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use common::{DOMAIN, HOUR, Intent, Server, echo, service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use weft_authority::Lives;
use weft_authority::trust::{Kind, Phase};
use weft_identity::client::attest;
use weft_identity::{ClientAuth, Identity, IdentityConfig, LiveIdentity, PeerMatch, Proof, tls};

const SOON: Duration = Duration::from_secs(60);

async fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < SOON, "not within {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A server whose intent has two services with certificates of this life.
async fn server(folder: &std::path::Path, ttl: Duration, lives: Lives) -> Server {
    let intent = Arc::new(Intent::default());
    intent.set("prod/web", Some(ttl));
    intent.set("prod/board", Some(ttl));
    Server::start_with(folder, &intent, "127.0.0.1:0".parse().unwrap(), lives).await
}

async fn workload(server: &Server, name: &str) -> Identity {
    let config = IdentityConfig {
        server: server.address.to_string(),
        subject: service(name).into(),
        node_id: format!("{name}~1"),
        proof: Some(Proof::Token(server.token(name).await)),
        state_dir: server.folder.join("state").join(name),
    };
    Identity::start(config).await.unwrap()
}

/// New connections, one after the other, from one workload to another, until it is told to stop; how many came about, and what the first
/// failure was.
struct Calls {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicU64>,
    task: JoinHandle<Result<(), String>>,
}

impl Calls {
    async fn start(from: &Arc<LiveIdentity>, to: &Arc<LiveIdentity>) -> Self {
        let (address, _) = echo(to.clone(), ClientAuth::Required).await;
        let expected = PeerMatch::TrustDomain(DOMAIN.parse().unwrap());
        let connector = TlsConnector::from(tls::client_config(from.clone(), expected, &[]));
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), made.clone());
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let call = async {
                    let stream = TcpStream::connect(address).await?;
                    let mut stream = connector.connect("board.prod".try_into().unwrap(), stream).await?;
                    stream.write_all(b"bye\n").await?;
                    let mut answer = [0; 4];
                    stream.read_exact(&mut answer).await.map(drop)
                };
                call.await
                    .map_err(|error| format!("call {}: {}", counted.load(Ordering::Relaxed), tls::explain(&error)))?;
                counted.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        Self { stop, made, task }
    }

    /// Stops when there were some, also after what they were to be beside.
    async fn end(self) {
        until("twenty calls", || self.made.load(Ordering::Relaxed) >= 20 || self.task.is_finished()).await;
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap().unwrap();
    }
}

fn root_of(identity: &LiveIdentity) -> usize {
    identity.load().bundle().unwrap().roots().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_follows_another_under_calls_and_none_fails() {
    let folder = tempfile::tempdir().unwrap();
    let lives = Lives { retired: Duration::from_secs(8), ..Lives::default() };
    let server = server(folder.path(), Duration::from_secs(6), lives).await;
    let (web, board) = (workload(&server, "prod/web").await, workload(&server, "prod/board").await);
    let calls = Calls::start(web.live(), board.live()).await;
    let (old_pin, old_token) = (server.authority.pin(), server.token("prod/board").await);
    let old_roots = server.authority.bundle().roots().to_vec();

    server.authority.rotate(Kind::X509, "a drill").await.unwrap();
    until("the new root signs", || server.authority.pin() != old_pin).await;
    for identity in [&web, &board] {
        assert_eq!(root_of(identity.live()), 2, "everybody held it before it signed");
    }
    let came_late = attest(&server.address.to_string(), &service("prod/board"), &old_token).await.unwrap();
    assert_eq!(came_late.bundle.roots().len(), 2, "a join token of before leads to the new root");

    until("the old root is gone everywhere", || {
        [web.live(), board.live(), &server.live].iter().all(|identity| root_of(identity) == 1)
    })
    .await;
    assert_ne!(server.authority.bundle().roots(), &old_roots[..]);
    assert_eq!(web.live().load().bundle().unwrap().roots(), server.authority.bundle().roots());
    assert!(server.authority.published().borrow().trust.sequence >= 3);
    calls.end().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stolen_root_is_out_of_the_mesh_in_seconds_and_no_call_fails() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path(), HOUR, Lives::default()).await;
    let (web, board) = (workload(&server, "prod/web").await, workload(&server, "prod/board").await);
    let calls = Calls::start(web.live(), board.live()).await;
    let stolen = server.authority.published().borrow().trust.x509.active().unwrap().id.clone();
    let serial = web.live().load().svid().unwrap().serial().to_owned();
    let begun = Instant::now();

    server.authority.taint(Kind::X509, &stolen, "its key was in a backup").await.unwrap();
    until("nobody trusts the stolen root", || {
        [web.live(), board.live(), &server.live].iter().all(|identity| {
            let state = identity.load();
            let roots = state.bundle().unwrap().roots();
            roots.len() == 1 && roots == server.authority.bundle().roots()
        }) && server.authority.published().borrow().trust.x509.keys().iter().all(|key| key.id != stolen)
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_ne!(web.live().load().svid().unwrap().serial(), serial, "what it had signed was replaced");
    calls.end().await;
    server.stop().await;
}

#[tokio::test]
async fn a_join_token_that_names_a_root_of_before_is_still_of_this_mesh() {
    let folder = tempfile::tempdir().unwrap();
    let lives = Lives { retired: Duration::from_secs(1), ..Lives::default() };
    let server = server(folder.path(), HOUR, lives).await;
    let config = IdentityConfig {
        server: server.address.to_string(),
        subject: service("prod/web").into(),
        node_id: "prod/web~1".to_owned(),
        proof: Some(Proof::Token(server.token("prod/web").await)),
        state_dir: folder.path().join("state"),
    };
    let web = Identity::start(config.clone()).await.unwrap();
    let old = server.authority.bundle().roots().to_vec();
    server.authority.rotate(Kind::X509, "a drill").await.unwrap();
    until("the old root is gone", || {
        let state = web.live().load();
        state.bundle().is_some_and(|bundle| bundle.roots().len() == 1 && bundle.roots() != old)
    })
    .await;
    drop(web);
    // As a unit file starts it again: with the token of the first day, which is used.
    assert!(Identity::start(config).await.is_ok());
    server.stop().await;
}

#[tokio::test]
async fn a_root_waits_for_the_slowest_until_its_certificate_ends() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path(), Duration::from_secs(5), Lives::default()).await;
    // Somebody who took a certificate and follows nothing.
    let token = server.token("prod/web").await;
    let silent = attest(&server.address.to_string(), &service("prod/web"), &token).await.unwrap();
    let pin = server.authority.pin();
    server.authority.rotate(Kind::X509, "a drill").await.unwrap();
    until("the new root is published", || server.authority.bundle().roots().len() == 2).await;
    let behind = server.authority.behind(SystemTime::now());
    assert_eq!(behind.len(), 1, "{behind:?}");
    assert!(behind[0].0.starts_with(silent.svid.id().as_str()), "{behind:?}");
    let signs = |server: &Server| {
        let published = server.authority.published().borrow().clone();
        published.trust.x509.keys().iter().any(|key| matches!(key.phase, Phase::Retired { .. }))
    };
    until("the new root signs", || {
        let ended = SystemTime::now() > silent.svid.not_after();
        assert!(ended || server.authority.pin() == pin, "it would be left without a way");
        signs(&server)
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn a_restarted_server_still_waits_for_those_who_were_there_before() {
    let folder = tempfile::tempdir().unwrap();
    let first = server(folder.path(), HOUR, Lives::default()).await;
    let web = workload(&first, "prod/web").await;
    let (address, intent, pin) = (first.address, first.intent.clone(), first.authority.pin());
    first.authority.advance(SystemTime::now()).await.unwrap(); // what was issued is written
    first.stop().await;
    let calls_home = web.live().clone();
    let second = Server::start_with(folder.path(), &intent, "127.0.0.1:0".parse().unwrap(), Lives::default()).await;
    second.authority.rotate(Kind::X509, "a drill").await.unwrap();
    until("the new root is published", || second.authority.bundle().roots().len() == 2).await;
    second.authority.advance(SystemTime::now()).await.unwrap();
    assert_eq!(second.authority.pin(), pin, "the workload is still looking for the server at its old place");
    assert_eq!(root_of(&calls_home), 1);
    second.stop().await;
    let third = Server::start_on(folder.path(), &intent, address).await;
    until("the workload has come back, and the new root signs", || third.authority.pin() != pin).await;
    assert_eq!(root_of(&calls_home), 2);
    third.stop().await;
}
