//! What the agent of a machine gets for others, and what nobody else does.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::{HOUR, Intent, SOON, Server, id, service};
use tokio::sync::mpsc;
use weft_identity::proto::identity_client::IdentityClient;
use weft_identity::{
    Audience, Banned, Identity, IdentityConfig, LiveIdentity, OnBehalf, Proof, certificate, connect, proto,
};
use weft_model::SpiffeId;

async fn start(folder: &std::path::Path) -> Server {
    let intent = Arc::new(Intent::default());
    for name in ["prod/web", "prod/board", "prod/job"] {
        intent.set(name, Some(HOUR));
    }
    intent.attest("prod/web", &["m1"], Some(7));
    intent.attest("prod/board", &["m2"], Some(7));
    Server::start(folder, &intent).await
}

async fn config(server: &Server, subject: &str) -> IdentityConfig {
    let subject: weft_model::Subject = subject.parse().unwrap();
    let pin = server.authority.pin();
    let token = server.tokens.create(&subject, pin, HOUR, SystemTime::now()).await.unwrap();
    IdentityConfig {
        server: server.address.to_string(),
        node_id: subject.to_string(),
        state_dir: server.folder.join("state").join(subject.to_string().replace('/', "_")),
        proof: Some(Proof::Token(token)),
        subject,
    }
}

async fn agent(server: &Server, name: &str) -> (Identity, IdentityConfig) {
    let config = config(server, &format!("agent:{name}")).await;
    (Identity::start(config.clone()).await.unwrap(), config)
}

async fn refused(on_behalf: &OnBehalf, name: &str) -> String {
    on_behalf.svid(&service(name), "a test").await.unwrap_err().to_string()
}

/// Waits until all of this is on record.
async fn recorded(server: &Server, all: &[&str]) {
    let log = || std::fs::read_to_string(server.folder.join("identity.log")).unwrap();
    let there = async {
        while !all.iter().all(|said| log().contains(said)) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, there).await.unwrap_or_else(|_| panic!("not all of {all:?} is in {}", log()));
}

#[tokio::test]
async fn an_agent_gets_what_is_assigned_to_it_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path()).await;
    let (m1, _) = agent(&server, "m1").await;
    let own: SpiffeId = format!("spiffe://{}/agent/m1", common::DOMAIN).parse().unwrap();
    assert_eq!(m1.live().id(), Some(own));
    let on_behalf = m1.on_behalf();
    let obtained = on_behalf.svid(&service("prod/web"), "pid 7").await.unwrap();
    assert_eq!(obtained.svid.id(), &id("prod/web"));
    let machine = |chain: &[rustls_pki_types::CertificateDer<'static>]| certificate::machine_of(&chain[0]).unwrap();
    let of_agent = machine(m1.live().load().svid().unwrap().chain());
    assert_eq!(machine(obtained.svid.chain()), of_agent, "a ban of the machine is one of all that it got");
    assert!(of_agent.is_some());

    assert!(
        refused(&on_behalf, "prod/board").await.contains("no entry of `attest` of prod/board holds on the machine")
    );
    assert!(refused(&on_behalf, "prod/job").await.contains("no entry of `attest`"), "it has none at all");
    assert!(refused(&on_behalf, "prod/none").await.contains("no entry of `attest`"));
    server.intent.set("prod/web", None);
    assert!(refused(&on_behalf, "prod/web").await.contains("no entry"), "it has left the intent");
    server.intent.set("prod/web", Some(HOUR));

    let audience = Audience::new(vec!["db".into()]).unwrap();
    let token = on_behalf.token(&service("prod/web"), &audience).await.unwrap();
    assert_eq!(token.id, id("prod/web"));
    assert!(on_behalf.token(&service("prod/board"), &audience).await.is_err());
    on_behalf.svid(&service("prod/web"), "pid 8").await.unwrap();
    let node = format!("\"node\":\"agent:m1~{}\"", of_agent.unwrap());
    let events = ["\"event\":\"renewed\"", "\"event\":\"jwtIssued\"", "\"event\":\"refused\""];
    recorded(&server, &[&["by agent m1, for pid 7", &node][..], &events].concat()).await;
    server.stop().await;
}

#[tokio::test]
async fn nobody_but_an_agent_gets_anything_for_others() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path()).await;
    let web = config(&server, "prod/web").await;
    let web_identity = Identity::start(web).await.unwrap();
    let error = refused(&web_identity.on_behalf(), "prod/web").await;
    assert!(error.contains("is no agent of a machine"), "{error}");
    let told = web_identity.on_behalf().assignments(|_, _| panic!("nobody tells it")).await.unwrap_err().to_string();
    assert!(told.contains("is no agent of a machine"), "{told}");
    // One whose certificate names no machine, as a thief of a CA might forget to.
    let nameless = LiveIdentity::empty();
    let key = weft_identity::ca::KeyRequest::new().unwrap();
    let proof = weft_authority::KeyProof::check(&key.csr).unwrap();
    let own: SpiffeId = format!("spiffe://{}/agent/m1", common::DOMAIN).parse().unwrap();
    let names = weft_identity::Names::default();
    let issued = server.authority.issue(&proof, &own, None, HOUR, &names, SystemTime::now()).unwrap();
    let svid = weft_identity::Svid::from_der(issued.chain, &key.key).unwrap();
    nameless.set(svid, (*server.authority.bundle()).clone());
    let channel = connect(&server.address.to_string(), &nameless).await.unwrap();
    let status = IdentityClient::new(channel).issue_for(proto::IssueForRequest::default()).await.unwrap_err();
    assert!(status.message().contains("is no agent of a machine"), "{status:?}");
    server.stop().await;
}

/// What an agent gave is not kept by whoever got it: it cannot be renewed past the agent.
#[tokio::test]
async fn an_identity_that_an_agent_gave_is_renewed_by_that_agent_alone() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path()).await;
    let (m1, _) = agent(&server, "m1").await;
    let obtained = m1.on_behalf().svid(&service("prod/web"), "a test").await.unwrap();
    let taken = LiveIdentity::empty();
    taken.set(obtained.svid, obtained.bundle);
    let mut client = IdentityClient::new(connect(&server.address.to_string(), &taken).await.unwrap());
    let csr = weft_identity::ca::KeyRequest::new().unwrap().csr.clone();
    let renewal = proto::RenewRequest { csr, node_id: "prod/web~x".into() };
    let status = client.renew(renewal).await.unwrap_err();
    assert!(status.message().contains("renewed by that agent alone"), "{status:?}");
    let jwt = client.issue_jwt(proto::IssueJwtRequest { audience: vec!["db".into()] }).await.unwrap_err();
    assert!(jwt.message().contains("renewed by that agent alone"), "{jwt:?}");
    server.stop().await;
}

#[tokio::test]
async fn an_agent_is_told_of_every_change_and_of_a_key_that_is_trusted_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path()).await;
    let (m1, _) = agent(&server, "m1").await;
    let on_behalf = Arc::new(m1.on_behalf());
    on_behalf.svid(&service("prod/web"), "a test").await.unwrap();
    let (sender, mut told) = mpsc::unbounded_channel();
    let following = on_behalf.clone();
    let task = tokio::spawn(async move {
        following
            .assignments(|all, renew| {
                let names = |names: Vec<weft_model::ServiceName>| names.iter().map(ToString::to_string).collect();
                let all: Vec<String> = names(all.into_iter().map(|one| one.service).collect());
                let renew: Vec<String> = names(renew);
                let _ = sender.send((all, renew));
            })
            .await
    });
    let none = || Vec::<String>::new();
    let mut next = async || tokio::time::timeout(SOON, told.recv()).await.unwrap().unwrap();
    assert_eq!(next().await, (vec!["prod/web".to_owned()], none()));
    server.intent.attest("prod/job", &[], Some(9));
    assert_eq!(next().await, (vec!["prod/job".to_owned(), "prod/web".to_owned()], none()));
    server.intent.attest("prod/job", &[], None);
    assert_eq!(next().await, (vec!["prod/web".to_owned()], none()));
    let root = server.authority.published().borrow().trust.x509.active().unwrap().id.clone();
    server.authority.taint(weft_authority::trust::Kind::X509, &root, "stolen").await.unwrap();
    assert_eq!(next().await, (vec!["prod/web".to_owned()], vec!["prod/web".to_owned()]));
    task.abort();
    server.stop().await;
}

#[tokio::test]
async fn a_banned_agent_or_service_gets_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path()).await;
    let (m1, _) = agent(&server, "m1").await;
    let own: SpiffeId = format!("spiffe://{}/agent/m1", common::DOMAIN).parse().unwrap();
    let machine = certificate::machine_of(&m1.live().load().svid().unwrap().chain()[0]).unwrap().unwrap();
    for banned in [Banned::Identity(own), Banned::Machine(machine), Banned::Identity(id("prod/web"))] {
        // One that does not listen to bans itself.
        let deaf = LiveIdentity::empty();
        let state = m1.live().load_full();
        let svid = state.svid().unwrap();
        let again = weft_identity::Svid::from_der(svid.chain().to_vec(), svid.private_key_der()).unwrap();
        deaf.set(again, (*server.authority.bundle()).clone());
        let config = config(&server, "agent:m1").await;
        let on_behalf = OnBehalf::new(&config, deaf);
        on_behalf.svid(&service("prod/web"), "before").await.unwrap();
        let now = SystemTime::now();
        server.bans.ban(banned.clone(), "a drill", &server.authority.own_id(), now).await.unwrap();
        let said = refused(&on_behalf, "prod/web").await;
        assert!(said.contains("banned: a drill") || said.contains("cannot connect"), "{banned}: {said}");
        server.bans.lift(&banned).await.unwrap();
        // The control plane's own connections go by it half a second later.
        let back = async {
            while on_behalf.svid(&service("prod/web"), "again").await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(SOON, back).await.unwrap();
    }
    server.stop().await;
}
