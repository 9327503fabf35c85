//! JWT-SVIDs: who gets one, by which key, and how one key follows another.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use common::{HOUR, Intent, Server, id, issue, service};
use tonic::{Code, Request};
use weft_authority::trust::{Kind, Phase};
use weft_authority::{Authority, Lives};
use weft_identity::proto::IssueJwtRequest;
use weft_identity::proto::identity_client::IdentityClient;
use weft_identity::{Audience, Identity, IdentityConfig, IdentityError, JwtError, LiveIdentity, Proof, connect, jwt};
use weft_store::Store;

const SOON: Duration = Duration::from_secs(60);

async fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < SOON, "not within {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn server(folder: &std::path::Path, lives: Lives) -> Server {
    let intent = Arc::new(Intent::default());
    intent.set("prod/web", Some(HOUR));
    intent.set("prod/board", Some(HOUR));
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

fn audience(values: &[&str]) -> Audience {
    Audience::new(values.iter().map(ToString::to_string).collect()).unwrap()
}

/// Whose token it is by what this workload knows.
fn judge(live: &LiveIdentity, token: &str, audience: &str) -> Result<String, JwtError> {
    let bundle = live.load().bundle().unwrap().jwt().clone();
    jwt::validate(token, audience, |_| Some(bundle), SystemTime::now()).map(|svid| svid.id.to_string())
}

fn kids(live: &LiveIdentity) -> Vec<String> {
    live.load().bundle().unwrap().jwt().keys().iter().map(|key| key.kid().to_owned()).collect()
}

/// What the server says to whoever asks by this identity.
async fn ask(server: &Server, live: &Arc<LiveIdentity>, audience: &[&str]) -> Result<String, (Code, String)> {
    let channel = connect(&server.address.to_string(), live).await.unwrap();
    let request = IssueJwtRequest { audience: audience.iter().map(ToString::to_string).collect() };
    let answer = IdentityClient::new(channel).issue_jwt(Request::new(request)).await;
    answer.map(|answer| answer.into_inner().token).map_err(|status| (status.code(), status.message().to_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_gets_a_token_of_its_own_identity_and_its_peer_believes_it() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path(), Lives::default()).await;
    let (web, board) = (workload(&server, "prod/web").await, workload(&server, "prod/board").await);
    let tokens = web.tokens();
    let token = tokens.fetch(&audience(&["board", "db"])).await.unwrap();
    assert_eq!(token.id, id("prod/web"));
    let life = token.expires.duration_since(SystemTime::now()).unwrap();
    assert!(life > Duration::from_secs(290) && life <= Duration::from_secs(300), "{life:?}");
    for asked in ["board", "db"] {
        assert_eq!(judge(board.live(), &token.text, asked), Ok(id("prod/web").to_string()));
    }
    assert_eq!(judge(board.live(), &token.text, "web"), Err(JwtError::Audience));

    // The same for the same audience while half of its life is left; another for another.
    assert_eq!(tokens.fetch(&audience(&["board", "db"])).await.unwrap().text, token.text);
    let other = tokens.fetch(&audience(&["db", "board"])).await.unwrap();
    assert_ne!(other.text, token.text);
    assert!(!format!("{token:?}").contains(&*token.text));

    // It survives the server, which a new one would have to be fetched from.
    server.stop().await;
    assert_eq!(tokens.fetch(&audience(&["board", "db"])).await.unwrap().text, token.text);
    let error = tokens.fetch(&audience(&["third"])).await.unwrap_err();
    assert!(matches!(error, IdentityError::Connect(_)), "{error}");
}

#[tokio::test]
async fn only_who_has_a_valid_identity_of_the_mesh_gets_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path(), Lives::default()).await;
    let web = server.identity("prod/web");
    assert!(ask(&server, &web, &["db"]).await.is_ok());
    let refused = ask(&server, &web, &[]).await.unwrap_err();
    assert_eq!(refused, (Code::InvalidArgument, "audience must be specified: say whom the token is for".into()));
    let long = "x".repeat(5000);
    assert_eq!(ask(&server, &web, &[&long]).await.unwrap_err().0, Code::InvalidArgument);

    // A connection that has outlived its certificate.
    let brief = LiveIdentity::empty();
    let svid = issue(&server.authority, "prod/web", Duration::from_secs(2), SystemTime::now());
    let ends = svid.not_after();
    brief.set(svid, (*server.authority.bundle()).clone());
    let mut client = IdentityClient::new(connect(&server.address.to_string(), &brief).await.unwrap());
    let request = || IssueJwtRequest { audience: vec!["db".into()] };
    assert!(client.issue_jwt(request()).await.is_ok());
    until("the certificate has expired", || SystemTime::now() > ends).await;
    assert_eq!(client.issue_jwt(request()).await.unwrap_err().code(), Code::Unauthenticated);

    server.intent.set("prod/web", None);
    let refused = ask(&server, &web, &["db"]).await.unwrap_err();
    assert_eq!(refused.0, Code::PermissionDenied, "it has left the intent: {}", refused.1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_for_tokens_follows_another_and_no_token_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let second = Duration::from_secs(1);
    let lives = Lives { token: 3 * second, jwt_retired: 6 * second, ..Lives::default() };
    let server = server(folder.path(), lives).await;
    let (web, board) = (workload(&server, "prod/web").await, workload(&server, "prod/board").await);
    let first = kids(board.live());
    assert_eq!(first.len(), 1);
    let old = ask(&server, web.live(), &["board"]).await.unwrap();

    server.authority.rotate(Kind::Jwt, "a drill").await.unwrap();
    let signs = || server.authority.published().borrow().trust.jwt.active().map(|key| key.id.clone());
    let mut asked = 0;
    let begun = Instant::now();
    while kids(board.live()) == first || kids(board.live()).len() != 1 {
        assert!(begun.elapsed() < SOON, "{:?}", kids(board.live()));
        // Whatever is issued at any moment is good at once at everybody's.
        let token = ask(&server, web.live(), &["board"]).await.unwrap();
        assert_eq!(judge(board.live(), &token, "board"), Ok(id("prod/web").to_string()), "token {asked}");
        asked += 1;
    }
    assert!(asked > 10 && signs() != Some(first[0].clone()), "{asked}");
    until("both have the same keys", || kids(web.live()) == kids(board.live())).await;
    assert!(matches!(judge(board.live(), &old, "board"), Err(JwtError::UnknownKey(_))), "its key is gone");
    // A restart of the workload begins with the keys of now.
    let saved = std::fs::read_to_string(folder.path().join("state/prod/web/identity.json")).unwrap();
    assert!(saved.contains(&kids(web.live())[0]) && !saved.contains(&first[0]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stolen_key_for_tokens_is_out_of_the_mesh_in_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path(), Lives::default()).await;
    let web = workload(&server, "prod/web").await;
    let tokens = web.tokens();
    let old = tokens.fetch(&audience(&["board"])).await.unwrap();
    let stolen = kids(web.live());
    server.authority.taint(Kind::Jwt, &stolen[0], "its key was in a backup").await.unwrap();
    until("nobody trusts the stolen key", || kids(web.live()).len() == 1 && kids(web.live()) != stolen).await;
    assert!(matches!(judge(web.live(), &old.text, "board"), Err(JwtError::UnknownKey(_))));
    let new = tokens.fetch(&audience(&["board"])).await.unwrap();
    assert_ne!(new.text, old.text, "what was kept is of no use any more");
    assert_eq!(judge(web.live(), &new.text, "board"), Ok(id("prod/web").to_string()));
    server.stop().await;
}

#[tokio::test]
async fn a_token_ends_with_its_ttl_and_with_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let (store, now) = (Store::open(folder.path()).unwrap(), SystemTime::now());
    let hour = Duration::from_secs(3600);
    let lives = Lives { jwt: 2 * hour, ..Lives::default() };
    let open = |store: Store, at| Authority::open(store, "acme.internal".parse().unwrap(), "self", lives, at);
    let authority = open(store.clone(), now).await.unwrap();
    let lasts = |authority: &Authority, at: SystemTime| {
        let issued = authority.issue_jwt(&id("prod/web"), &audience(&["db"]), at).unwrap();
        issued.expires.duration_since(at).unwrap().as_secs()
    };
    assert_eq!(lasts(&authority, now), 300);
    let late = now + 2 * hour - Duration::from_secs(100);
    assert!((98..=100).contains(&lasts(&authority, late)), "{}", lasts(&authority, late));

    // At half of its life it is followed by another, and a restart goes on with that.
    let before = authority.issue_jwt(&id("prod/web"), &audience(&["db"]), now).unwrap().kid;
    authority.advance(now + hour).await.unwrap();
    let early = authority.issue_jwt(&id("prod/web"), &audience(&["db"]), now + hour).unwrap().kid;
    assert_eq!(before, early, "apps that hold copies of the keys have two seconds");
    authority.advance(now + hour + Duration::from_secs(2)).await.unwrap();
    let after = authority.issue_jwt(&id("prod/web"), &audience(&["db"]), now + hour).unwrap().kid;
    assert_ne!(before, after);
    let published = authority.published().borrow().clone();
    let phases: Vec<bool> =
        published.trust.jwt.keys().iter().map(|key| matches!(key.phase, Phase::Retired { .. })).collect();
    assert_eq!(phases, [true, false], "the one before is published while its tokens live");
    drop(authority);
    let again = open(store.clone(), now + hour).await.unwrap();
    assert_eq!(again.issue_jwt(&id("prod/web"), &audience(&["db"]), now + hour).unwrap().kid, after);
    again.advance(now + hour + Duration::from_secs(2) + lives.jwt_retired).await.unwrap();
    assert_eq!(again.bundle().jwt().keys().len(), 1);
    assert!(store.get_sealed(&format!("ca/jwt/{before}")).await.unwrap().is_none(), "its private key is destroyed");
}
