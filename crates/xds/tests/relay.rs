//! The relay between a server and a local client that behaves like Envoy.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use common::{Running, Server, World, log_until, node, snapshot, soon};
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{HttpConnectionManager, Rds};
use prost::{Message, Name};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use weft_xds::type_url::{CLUSTER, ENDPOINT, LISTENER, POLICY_BUNDLE, REVISION, ROUTE};
use weft_xds::{AdsServer, Any, Client, ClientStatus, Rejection, Relay, Resource, Sink, Snapshot, Update};

fn cluster(name: &str, alt: &str) -> Arc<Resource> {
    let cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into()));
    let cluster =
        Cluster { name: name.into(), alt_stat_name: alt.into(), cluster_discovery_type, ..Default::default() };
    Resource::new(CLUSTER, name, &cluster)
}

fn listener(route: &str) -> Arc<Resource> {
    let rds = Rds { route_config_name: route.into(), ..Default::default() };
    let manager = HttpConnectionManager { route_specifier: Some(RouteSpecifier::Rds(rds)), ..Default::default() };
    let any = Any { type_url: HttpConnectionManager::type_url(), value: manager.encode_to_vec() };
    let filter = Filter { name: "hcm".into(), config_type: Some(ConfigType::TypedConfig(any)) };
    let filter_chains = vec![FilterChain { filters: vec![filter], ..Default::default() }];
    Resource::new(LISTENER, "egress", &Listener { name: "egress".into(), filter_chains, ..Default::default() })
}

fn state(revision: &str, alt: &str, route: &str) -> Snapshot {
    let others =
        [(ENDPOINT, "a", "1"), (ROUTE, "egress", route), (POLICY_BUNDLE, "p", "1"), (REVISION, "mesh", revision)];
    (*snapshot(revision, &others)).clone().with(cluster("a", alt)).with(listener("egress"))
}

/// A server upstream, and a relay that follows it.
struct Agent {
    world: Arc<World>,
    log: common::Log,
    server: Server,
    relay: Relay,
    status: tokio::sync::watch::Receiver<ClientStatus>,
    _node: tokio::sync::watch::Sender<weft_xds::Node>,
    local: std::net::SocketAddr,
}

async fn agent(first: Snapshot) -> Agent {
    let (world, log) = World::new(Arc::new(first));
    let server = Server::start(&world);
    let (relay, node, address) = (Relay::new(), tokio::sync::watch::Sender::new(node("prod/board~1")), server.address);
    let client = Client::new(node.subscribe(), None, move || common::channel(address));
    let status = client.status();
    tokio::spawn(client.run(relay.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let local = listener.local_addr().expect("bound");
    let ads = AdsServer::new(Arc::new(relay.clone())).ads();
    tokio::spawn(weft_xds::server_builder().add_service(ads).serve_with_incoming(TcpListenerStream::new(listener)));
    Agent { world, log, server, relay, status, _node: node, local }
}

/// What Envoy has of the upstream state.
fn relayed(state: &Snapshot) -> Snapshot {
    let types = [CLUSTER, ENDPOINT, LISTENER, ROUTE].into_iter();
    types.flat_map(|type_url| state.get(type_url).values().cloned()).collect()
}

#[tokio::test]
async fn envoy_gets_what_the_server_has_and_its_answers_go_upstream() {
    let mut agent = agent(state("1", "x", "to a")).await;
    let envoy = Running::start("envoy", agent.local, None);
    // The test's sink takes every name of a cluster as that of its endpoints, and wants a route `r`, not `egress`.
    let mut first = relayed(&state("1", "x", "to a"));
    first.remove(ROUTE, "egress");
    envoy.sink.has(&first).await;
    let lines = log_until(&mut agent.log, "settled 1").await;
    assert!(lines.iter().all(|line| !line.starts_with("nack")), "{lines:?}");
    assert!(agent.relay.connected());

    let mut second = state("2", "x", "to a");
    second.insert(Resource::from_bytes(ENDPOINT, "a", b"bad address".to_vec()));
    agent.world.snapshots.send_replace(Arc::new(second));
    let lines = log_until(&mut agent.log, "nack").await;
    assert_eq!(lines.last().expect("a line"), r#"nack EDS 2 ["a"]: a: field: bad address"#);
    assert_eq!(agent.relay.snapshot().get(ENDPOINT)["a"].any.value, b"1", "a new Envoy gets what the old one runs on");

    agent.world.snapshots.send_replace(Arc::new(state("3", "y", "to a")));
    let mut third = relayed(&state("3", "y", "to a"));
    third.remove(ROUTE, "egress");
    envoy.sink.has(&third).await;
    log_until(&mut agent.log, "settled 3").await;
    soon(agent.status.wait_for(|status| status.refused.is_empty() && &*status.revision == "3")).await.expect("alive");
}

#[tokio::test]
async fn an_envoy_that_comes_later_is_waited_for_once_and_gets_everything() {
    let mut agent = agent(state("1", "x", "to a")).await;
    log_until(&mut agent.log, "settled 1").await;
    assert!(!agent.relay.connected());
    agent.world.snapshots.send_replace(Arc::new(state("2", "y", "to a")));
    log_until(&mut agent.log, "settled 2").await;
    let wanted: Vec<_> = relayed(&state("2", "y", "to a")).types().map(|(url, all)| (url, all.clone())).collect();
    assert_eq!(agent.relay.snapshot().types().map(|(url, all)| (url, all.clone())).collect::<Vec<_>>(), wanted);
    let envoy = Running::start("envoy", agent.local, None);
    let mut second = relayed(&state("2", "y", "to a"));
    second.remove(ROUTE, "egress");
    envoy.sink.has(&second).await;
}

#[tokio::test]
async fn what_no_cluster_and_no_listener_refers_to_is_forgotten() {
    let mut agent =
        agent(state("1", "x", "to a").with(cluster("b", "")).with(Resource::from_bytes(ENDPOINT, "b", vec![1]))).await;
    log_until(&mut agent.log, "settled 1").await;
    assert_eq!(agent.relay.snapshot().get(ENDPOINT).len(), 2);
    agent.world.snapshots.send_replace(Arc::new(state("2", "x", "to a")));
    log_until(&mut agent.log, "settled 2").await;
    assert_eq!(agent.relay.snapshot().get(ENDPOINT).keys().map(|name| &**name).collect::<Vec<_>>(), ["a"]);
}

#[tokio::test]
async fn a_cluster_that_cannot_be_read_is_refused_by_the_relay_itself() {
    let mut agent = agent(state("1", "x", "to a").with(Resource::from_bytes(CLUSTER, "odd", vec![0xff]))).await;
    let lines = log_until(&mut agent.log, "nack CDS").await;
    assert!(lines.last().expect("a line").contains("odd: failed to decode"), "{lines:?}");
    log_until(&mut agent.log, "settled 1").await;
    assert!(
        agent.relay.snapshot().get(CLUSTER).contains_key("a")
            && !agent.relay.snapshot().get(CLUSTER).contains_key("odd")
    );
}

/// An Envoy that refuses whatever contains `bad`, after having thought about it.
struct Slow {
    good: common::TestSink,
    thinks: Duration,
}

#[tonic::async_trait]
impl Sink for Slow {
    async fn apply(&mut self, mut update: Update) -> Vec<Rejection> {
        let all = std::mem::take(&mut update.changed).into_iter();
        let (bad, good): (Vec<_>, Vec<_>) = all.partition(|one| one.any.value.windows(3).any(|part| part == b"bad"));
        update.changed = good;
        self.good.apply(update).await;
        if !bad.is_empty() {
            tokio::time::sleep(self.thinks).await;
        }
        bad.iter().map(|one| Rejection { name: one.name.clone(), reason: "no good".to_owned() }).collect()
    }

    fn wanted(&self, type_url: &'static str) -> BTreeSet<Arc<str>> {
        self.good.wanted(type_url)
    }
}

/// Starts it; it runs while what is returned lives.
fn slow_envoy(local: std::net::SocketAddr, thinks: u64) -> tokio::sync::watch::Sender<weft_xds::Node> {
    let node = tokio::sync::watch::Sender::new(node("envoy"));
    let client = Client::new(node.subscribe(), None, move || common::channel(local));
    let sink = Slow { good: common::TestSink::default(), thinks: Duration::from_secs(thinks) };
    tokio::spawn(client.run(sink));
    node
}

#[tokio::test]
async fn a_refusal_that_comes_after_the_wait_goes_upstream_all_the_same() {
    let mut agent = agent(state("1", "x", "to a")).await;
    let _envoy = slow_envoy(agent.local, 6);
    log_until(&mut agent.log, "settled 1").await;
    let good = agent.relay.snapshot().get(CLUSTER)["a"].clone();

    agent.world.snapshots.send_replace(Arc::new(state("2", "bad", "to a")));
    let lines = log_until(&mut agent.log, "ack CDS 2").await;
    assert!(!lines.iter().any(|line| line.starts_with("nack")), "{lines:?}");
    let lines = log_until(&mut agent.log, "nack").await;
    assert_eq!(lines.last().expect("a line"), r#"nack CDS 2 ["a"]: a: no good"#);
    assert_eq!(agent.relay.snapshot().get(CLUSTER)["a"], good, "a new Envoy gets what the old one runs on");
    let refused = |status: &ClientStatus| status.refused.get(CLUSTER).is_some_and(|list| &*list[0].name == "a");
    soon(agent.status.wait_for(refused)).await.expect("alive");

    agent.world.snapshots.send_replace(Arc::new(state("3", "y", "to a")));
    log_until(&mut agent.log, "settled 3").await;
    soon(agent.status.wait_for(|status| status.refused.is_empty() && &*status.revision == "3")).await.expect("alive");
    assert_ne!(agent.relay.snapshot().get(CLUSTER)["a"], good);
}

#[tokio::test]
async fn what_was_accepted_for_an_envoy_that_was_away_can_still_be_refused_by_it() {
    let mut first = state("1", "x", "to a");
    first.insert(Resource::from_bytes(ENDPOINT, "a", b"bad address".to_vec()));
    let mut agent = agent(first).await;
    let lines = log_until(&mut agent.log, "settled 1").await;
    assert!(!lines.iter().any(|line| line.starts_with("nack")), "{lines:?}");
    let _envoy = slow_envoy(agent.local, 0);
    let lines = log_until(&mut agent.log, "nack").await;
    assert_eq!(lines.last().expect("a line"), r#"nack EDS 1 ["a"]: a: no good"#);
    assert!(!agent.relay.snapshot().get(ENDPOINT).contains_key("a"), "there is nothing older");
}

#[tokio::test]
async fn a_new_envoy_that_refuses_what_the_old_one_ran_on_is_told_of_until_one_accepts_it() {
    let mut agent = agent(state("1", "bad", "to a")).await;
    let first = Running::start("envoy", agent.local, None);
    let lines = log_until(&mut agent.log, "settled 1").await;
    assert!(!lines.iter().any(|line| line.starts_with("nack")), "{lines:?}");
    let held = agent.relay.snapshot().get(CLUSTER)["a"].clone();
    first.stop().await;

    let second = slow_envoy(agent.local, 0);
    let lines = log_until(&mut agent.log, "nack").await;
    assert_eq!(lines.last().expect("a line"), r#"nack CDS 1 ["a"]: a: no good"#);
    let refused = |status: &ClientStatus| status.refused.get(CLUSTER).is_some_and(|list| &*list[0].name == "a");
    soon(agent.status.wait_for(refused)).await.expect("alive");
    assert_eq!(agent.relay.snapshot().get(CLUSTER)["a"], held, "the next Envoy may accept it");

    // What is accepted beside it changes nothing, and a control plane that comes back is told as well.
    agent.world.snapshots.send_replace(Arc::new(state("2", "bad", "to a").with(cluster("b", ""))));
    let lines = log_until(&mut agent.log, "settled 2").await;
    assert!(lines.iter().any(|line| line == r#"ack CDS 2 but ["a"]"#), "{lines:?}");
    assert!(refused(&agent.status.borrow()), "{:?}", agent.status.borrow());
    agent.server.kill();
    agent.server = Server::start_at(&agent.world, agent.server.address);
    let lines = log_until(&mut agent.log, "nack").await;
    assert_eq!(lines.last().expect("a line"), r#"nack CDS 2 ["a"]: a: no good"#);

    drop(second);
    soon(async {
        while agent.relay.connected() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let _third = Running::start("envoy", agent.local, None);
    let lines = log_until(&mut agent.log, "ack CDS 2").await;
    assert!(!lines.iter().any(|line| line.starts_with("nack")), "{lines:?}");
    soon(agent.status.wait_for(|status| !status.refused.contains_key(CLUSTER))).await.expect("alive");
}
