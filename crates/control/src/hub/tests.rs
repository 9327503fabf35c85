//! The hub as proxies and commits see it: real intent, real compilation, streams played by hand.

use weft_compile::testing::{MESH, service};
use weft_model::source::SourceFile;
use weft_xds::type_url;

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use weft_xds::Snapshot;

use super::state::Withdrawn;
use super::*;
use crate::issued::Issued;
use crate::node::AgentNode;
use crate::status::ChangeState;

fn services() -> String {
    let board = "access: [{from: [prod/web]}]";
    [service("prod/web", ""), service("prod/board", board), service("prod/other", "")].concat()
}

async fn commit(hub: &Arc<Hub>, id: &str, services: &str) -> bool {
    let files = [("mesh.yaml", MESH), ("services.yaml", services)];
    let files = files.map(|(path, text)| SourceFile::new(path, text.as_bytes().to_vec()));
    let good = crate::change::apply(hub, id, id, files.to_vec()).await;
    hub.publish().await;
    good
}

async fn hub() -> Arc<Hub> {
    let hub = Hub::new(Registry::default(), Issued::default(), Duration::from_secs(30));
    assert!(commit(&hub, "c1", &services()).await);
    hub
}

fn agent(service: &str, instance: &str, port: u16, ready: bool) -> AgentNode {
    let local = |port| std::net::SocketAddr::from(([127, 0, 0, 1], port));
    AgentNode {
        instance: instance.into(),
        service: service.parse().expect("legal"),
        ready,
        ingress: local(port),
        advertise: None,
        egress: local(1),
        app: local(2),
        authz: None,
        labels: BTreeMap::new(),
        access_log: "/dev/null".into(),
        data_plane: "weft".into(),
        certificate_expires: None,
    }
}

struct Stream {
    hub: Arc<Hub>,
    id: u64,
    node: Arc<str>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
}

impl Stream {
    fn open(hub: &Arc<Hub>, agent: &AgentNode) -> Self {
        let peer = format!("spiffe://acme.internal/ns/{}/sa/{}", agent.service.namespace(), agent.service.name());
        let opened = hub.open(Some(peer.parse().expect("legal")), &agent.to_node());
        let Opened { stream: id, node, snapshots } = opened.expect("its own");
        Self { hub: hub.clone(), id, node, snapshots }
    }

    fn answer(&self) {
        let snapshot = self.snapshots.borrow().clone();
        self.hub.settled(self.id, &self.node, &snapshot.revision, snapshot.serial);
    }

    /// Addresses of the endpoints of `prod/board` that this proxy has been told.
    fn board_endpoints(&self) -> usize {
        use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
        let snapshot = self.snapshots.borrow().clone();
        let resource = snapshot.get(type_url::ENDPOINT).get("outbound|8080||board.prod").expect("web may call board");
        let assignment: ClusterLoadAssignment = resource.decode().expect("an assignment");
        assignment.endpoints.iter().map(|locality| locality.lb_endpoints.len()).sum()
    }
}

#[tokio::test]
async fn an_endpoint_comes_with_ready_and_goes_with_not_ready() {
    let hub = hub().await;
    let web = Stream::open(&hub, &agent("prod/web", "a", 10, true));
    let board = Stream::open(&hub, &agent("prod/board", "a", 20, false));
    hub.publish().await;
    assert_eq!(web.board_endpoints(), 0);
    hub.node_changed(board.id, &agent("prod/board", "a", 20, true).to_node()).expect("its own");
    hub.publish().await;
    assert_eq!(web.board_endpoints(), 1);
    hub.node_changed(board.id, &agent("prod/board", "a", 20, false).to_node()).expect("its own");
    hub.publish().await;
    assert_eq!(web.board_endpoints(), 0);
}

#[tokio::test]
async fn a_lost_proxy_without_an_endpoint_leaves_the_list_by_itself() {
    let hub = hub().await;
    let web = Stream::open(&hub, &agent("prod/web", "a", 10, false));
    web.answer();
    hub.publish().await;
    hub.closed(web.id);
    assert_eq!(hub.state().tracker.counts().lost, 1);
    let next = hub.next_expiry().expect("it will be forgotten");
    assert!(next <= Instant::now() + Duration::from_secs(30));
    hub.expire(next, SystemTime::now());
    assert_eq!(hub.state().tracker.counts().lost, 0);
    assert_eq!(hub.next_expiry(), None);
}

#[tokio::test]
async fn a_broken_stream_keeps_its_endpoint_until_the_grace_is_over() {
    let hub = hub().await;
    let web = Stream::open(&hub, &agent("prod/web", "a", 10, true));
    let board = Stream::open(&hub, &agent("prod/board", "a", 20, true));
    hub.closed(board.id);
    hub.expire(Instant::now(), SystemTime::now());
    hub.publish().await;
    assert_eq!(web.board_endpoints(), 1);
    hub.expire(Instant::now() + Duration::from_secs(31), SystemTime::now());
    hub.publish().await;
    assert_eq!(web.board_endpoints(), 0);
}

/// Two sidecars on copies of one state folder are one node with two streams.
#[tokio::test]
async fn a_stream_that_closes_does_not_end_another_of_its_node() {
    let hub = hub().await;
    let web = Stream::open(&hub, &agent("prod/web", "a", 10, true));
    let board = agent("prod/board", "a", 20, true);
    let (first, second) = (Stream::open(&hub, &board), Stream::open(&hub, &agent("prod/board", "a", 21, false)));
    hub.publish().await;
    assert_eq!(web.board_endpoints(), 0);
    hub.closed(second.id);
    hub.publish().await;
    for stream in [&web, &first] {
        stream.answer();
    }
    hub.expire(Instant::now() + Duration::from_secs(31), SystemTime::now());
    hub.publish().await;
    web.answer();
    assert_eq!(web.board_endpoints(), 1);
    let state = hub.state();
    assert_eq!((state.tracker.counts().lost, state.tracker.counts().connected), (0, 2));
    assert_eq!(state.tracker.history()[0].acknowledged, ["prod/board~a", "prod/web~a"]);
}

#[tokio::test]
async fn a_change_of_endpoints_reaches_only_those_who_may_call() {
    let hub = hub().await;
    let web = Stream::open(&hub, &agent("prod/web", "a", 10, true));
    let other = Stream::open(&hub, &agent("prod/other", "a", 30, true));
    hub.publish().await;
    let before = other.snapshots.borrow().serial;
    let _board = Stream::open(&hub, &agent("prod/board", "a", 20, true));
    hub.publish().await;
    assert_eq!(web.board_endpoints(), 1);
    assert_eq!(other.snapshots.borrow().serial, before, "other may not call board and must hear nothing of it");
}

#[tokio::test(start_paused = true)]
async fn a_withdrawal_waits_for_the_callers() {
    let hub = hub().await;
    let web = Stream::open(&hub, &agent("prod/web", "a", 10, true));
    let board = Stream::open(&hub, &agent("prod/board", "a", 20, true));
    hub.publish().await;
    web.answer();
    tokio::spawn(hub.clone().publish_forever());
    let bound = Duration::from_secs(5);
    let withdrawal = tokio::spawn({
        let (hub, node) = (hub.clone(), board.node.clone());
        async move { hub.withdraw(&node, bound).await }
    });
    let mut snapshots = web.snapshots.clone();
    snapshots.mark_unchanged();
    snapshots.changed().await.expect("the removal is published");
    assert_eq!(web.board_endpoints(), 0);
    assert!(!withdrawal.is_finished(), "web has not answered yet");
    web.answer();
    assert_eq!(withdrawal.await.expect("no panic"), Withdrawn { acknowledged: 1, waiting: 0 });
    // Who never answers is waited for only so long.
    let _again = Stream::open(&hub, &agent("prod/board", "b", 21, true));
    assert_eq!(hub.withdraw("prod/board~b", bound).await, Withdrawn { acknowledged: 0, waiting: 1 });
}

#[tokio::test]
async fn a_bad_commit_changes_nothing_that_proxies_see() {
    let hub = hub().await;
    let web = Stream::open(&hub, &agent("prod/web", "a", 10, true));
    web.answer();
    let before = web.snapshots.borrow().serial;
    assert!(!commit(&hub, "c2", &services().replace("prod/web]", "prod/nobody]")).await);
    assert!(!commit(&hub, "c3", "kind: Nonsense\n").await);
    assert_eq!(web.snapshots.borrow().serial, before);
    let state = hub.state();
    assert_eq!(state.refused.as_ref().map(|refused| refused.commit.as_str()), Some("c3"));
    assert!(!state.findings.is_empty());
    let states: Vec<_> = state.tracker.history().iter().map(|change| (change.commit.clone(), change.state)).collect();
    let expected = [("c3", ChangeState::Refused), ("c2", ChangeState::Refused), ("c1", ChangeState::Done)];
    assert_eq!(states, expected.map(|(commit, state)| (commit.to_owned(), state)));
}

#[tokio::test]
async fn a_commit_is_done_when_every_proxy_has_answered() {
    let hub = hub().await;
    let web = Stream::open(&hub, &agent("prod/web", "a", 10, true));
    web.answer();
    assert!(commit(&hub, "c2", &services().replace("[{from: [prod/web]}]", "[{from: ['*']}]")).await);
    assert_eq!(hub.state().tracker.history()[0].state, ChangeState::Rolling);
    assert_eq!(&*web.snapshots.borrow().revision, "c2");
    web.answer();
    assert_eq!(hub.state().tracker.history()[0].state, ChangeState::Done);
}

#[tokio::test]
async fn the_trust_domain_cannot_change() {
    let hub = hub().await;
    let files = [("mesh.yaml", MESH.replace("acme.internal", "u.internal")), ("services.yaml", services())];
    let files = files.map(|(path, text)| SourceFile::new(path, text.into_bytes()));
    assert!(!crate::change::apply(&hub, "c2", "c2", files.to_vec()).await);
    let finding = hub.state().findings[0].clone();
    assert_eq!((finding.code.as_str(), finding.place.as_deref()), ("WEFT0301", Some("mesh.yaml:3:1")));
}

#[tokio::test]
async fn nobody_gets_in_before_the_first_commit_or_without_a_service() {
    let empty = Hub::new(Registry::default(), Issued::default(), Duration::from_secs(30));
    let peer = |name: &str| Some(format!("spiffe://acme.internal/ns/prod/sa/{name}").parse().expect("legal"));
    let refused = empty.open(peer("web"), &agent("prod/web", "a", 1, true).to_node()).err().expect("nothing to serve");
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    let hub = hub().await;
    let refused = hub.open(peer("gone"), &agent("prod/gone", "a", 1, true).to_node()).err().expect("not in the intent");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
}
