use std::path::Path;

use weft_decision_log::{Settings, Tail};
use weft_model::intent::SshKey;
use weft_model::source::SourceFile;

use super::signed::tests::key;
use super::*;
use crate::change;
use crate::issued::Issued;
use crate::registry::Registry;

const NOW: u64 = 1_795_537_086;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW + seconds)
}

/// As in the file of a public key.
fn line(key: &SshKey) -> String {
    ssh_key::PublicKey::from(ssh_key::public::Ed25519PublicKey(key.ed25519)).to_openssh().expect("a key")
}

async fn glass(folder: &Path) -> (Arc<Hub>, Arc<Glass>) {
    let hub = Hub::new(Registry::default(), Issued::default(), Duration::from_secs(30));
    commit(&hub, &documents(&["alice", "bob"]), &policies(60)).await;
    let glass = Glass::restore(hub.clone(), Saved::new(folder));
    (hub, glass)
}

/// A mesh with these operators, of whom each has a key of its own.
fn documents(operators: &[&str]) -> String {
    let operator =
        |(seed, name): (u8, &&str)| format!("kind: Operator\nname: {name}\nsshKeys: [{}]\n---\n", line(&key(seed).1));
    let operators: String = (1..).zip(operators).map(operator).collect();
    format!(
        "kind: Mesh\nname: acme\ntrustDomain: acme.internal\n---\n{operators}kind: Service\nnamespace: prod\nname: web\nport: 1\nprotocol: http\n---\n\
         kind: Service\nnamespace: prod\nname: board\nport: 2\nprotocol: http\n"
    )
}

/// Alice may break the glass for so long.
fn policies(minutes: u32) -> String {
    format!(
        r#"permit (principal == Operator::"alice", action == Action::"breakGlass", resource) when {{ context.minutes <= {minutes} }};
permit (principal, action == Action::"call", resource == Service::"prod/board") when {{ context.breakGlass }};"#
    )
}

async fn commit(hub: &Arc<Hub>, documents: &str, policies: &str) {
    let files = [("mesh.yaml", documents), ("policies/x.cedar", policies)];
    let files = files.map(|(path, text)| SourceFile::new(path, text.as_bytes())).into();
    let good = change::apply(hub, "c0ffee", "a commit", files).await;
    assert!(good, "{:#?}", hub.state().findings);
}

fn request(operator: &str, seconds: u64, signed_at: u64, seed: u8) -> GlassRequest {
    let at = (NOW + signed_at) * 1000;
    let (mesh, operator, reason) = ("acme".to_owned(), operator.to_owned(), "deploy is stuck".to_owned());
    let mut request = GlassRequest { mesh, operator, seconds, reason, at, signature: String::new() };
    request.sign(&key(seed).0).expect("signs");
    request
}

fn is_open(hub: &Hub) -> bool {
    let mesh = hub.state().mesh.clone().expect("a commit");
    let board = "prod/board".parse().expect("a name");
    mesh.policy().bundle_with(&board, mesh.break_glass()).break_glass.is_some()
}

#[tokio::test]
async fn who_is_permitted_opens_it_for_a_time_and_it_is_logged() {
    let folder = tempfile::tempdir().expect("a folder");
    let (hub, glass) = glass(folder.path()).await;
    let path = folder.path().join("decisions.log");
    let log = DecisionLog::open(&path, Settings::default(), None).expect("opens");
    glass.log_to(log.clone());
    assert!(!is_open(&hub));
    let answer = glass.ask(&request("alice", 1800, 0, 1), at(1)).expect("alice may");
    assert_eq!((answer.until, answer.services), (NOW + 1 + 1800, 1));
    assert_eq!(answer.reason, "permit policies/x.cedar:1");
    assert!(is_open(&hub));

    // A commit changes nothing about it, and a restart finds it; the second on which it ends does not.
    let (again, _glass) = self::glass(folder.path()).await;
    assert!(!is_open(&again), "by the clock of this machine it is over, or has not begun");
    hub.expire(std::time::Instant::now(), at(1800));
    assert!(is_open(&hub));
    hub.expire(std::time::Instant::now(), at(1801));
    assert!(!is_open(&hub));

    let refused = glass.ask(&request("bob", 60, 2, 2), at(2)).expect_err("bob may not");
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    log.flush();
    let mut entries = Vec::new();
    Tail::new(&path).read(|entry| entries.push(entry)).expect("reads");
    let told: Vec<_> =
        entries.iter().map(|entry| (entry.decision, entry.principal.as_deref(), &*entry.action)).collect();
    let (alice, bob) = (Some("operator:alice"), Some("operator:bob"));
    assert_eq!(told, [(Outcome::Allow, alice, "breakGlass"), (Outcome::Deny, bob, "breakGlass")]);
    assert_eq!(entries[0].attributes["reason"], "deploy is stuck");
}

#[tokio::test]
async fn a_commit_that_does_not_permit_it_any_more_ends_it() {
    let everybody = documents(&["alice", "bob"]);
    let of_others = everybody.replace("name: alice", "name: carol");
    for (documents, policies, stays) in [
        (&everybody, policies(60), true),
        (&everybody, policies(30), true),
        (&everybody, policies(29), false),
        (&of_others, policies(60).replace("alice", "carol"), false),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let (hub, glass) = glass(folder.path()).await;
        glass.ask(&request("alice", 1800, 0, 1), at(0)).expect("alice may");
        commit(&hub, documents, &policies).await;
        assert_eq!(is_open(&hub), stays, "{policies}");
        assert_eq!(hub.state().break_glass.is_some(), stays);
    }
}

#[tokio::test]
async fn it_can_be_ended_and_nothing_is_obeyed_twice() {
    let folder = tempfile::tempdir().expect("a folder");
    let (hub, glass) = glass(folder.path()).await;
    let on = request("alice", 60, 0, 1);
    glass.ask(&on, at(0)).expect("alice may");
    glass.ask(&request("alice", 0, 1, 1), at(1)).expect("and may end it");
    assert!(!is_open(&hub));
    let refused = glass.ask(&on, at(2)).expect_err("it was obeyed");
    assert_eq!(
        (refused.status, &*refused.what),
        (StatusCode::UNAUTHORIZED, "this request, or a later one, was obeyed already")
    );
    // Not after a restart either.
    let (_, glass) = self::glass(folder.path()).await;
    assert!(glass.ask(&on, at(2)).is_err());
    assert!(glass.ask(&request("alice", 60, 2, 1), at(2)).is_ok());
}

#[tokio::test]
async fn what_is_not_right_is_refused_and_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let (hub, glass) = glass(folder.path()).await;
    let refused = |request: GlassRequest| {
        let refused = glass.ask(&request, at(0)).expect_err("it is not right");
        (refused.status.as_u16(), refused.what)
    };
    let good = || request("alice", 60, 0, 1);
    let signed = |mut request: GlassRequest| {
        request.sign(&key(1).0).expect("signs");
        request
    };
    for (request, status, what) in [
        (request("carol", 60, 0, 1), 403, "there is no operator carol"),
        (request("alice", 60, 0, 2), 401, "the key is none of the operator's"),
        (request("alice", 3601, 0, 1), 403, "no policy about Action::\"breakGlass\" permits alice this"),
        (request("alice", 86_401, 0, 1), 400, "longer than a day"),
        (request("alice", 60, 121, 1), 401, "signed 121 s from now"),
        (signed(GlassRequest { mesh: "other".into(), ..good() }), 400, "this is the mesh acme"),
        (signed(GlassRequest { reason: " ".into(), ..good() }), 400, "a reason is one line"),
        (signed(GlassRequest { reason: "a\nb".into(), ..good() }), 400, "a reason is one line"),
        (GlassRequest { seconds: 61, ..good() }, 401, "not over this"),
    ] {
        let told = refused(request);
        assert!(told.0 == status && told.1.contains(what), "{told:?}, not {status} {what}");
    }
    assert!(!is_open(&hub));
}
