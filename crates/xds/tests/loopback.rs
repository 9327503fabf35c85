//! Client and server over loopback: changes, refusals, reconnects, restarts from the cache.

mod common;

use std::sync::Arc;

use common::{Log, Running, Server, TestSink, World, log_until, node, snapshot, soon};
use envoy_types::pb::envoy::service::discovery::v3 as pb;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_xds::Snapshot;
use weft_xds::type_url::{CLUSTER, ENDPOINT, LISTENER, POLICY_BUNDLE, REVISION, ROUTE};

fn first() -> Arc<Snapshot> {
    let resources = [
        (CLUSTER, "a", "1"),
        (ENDPOINT, "a", "1"),
        (LISTENER, "l", "1"),
        (ROUTE, "r", "to a"),
        (POLICY_BUNDLE, "p", "1"),
        (REVISION, "mesh", "commit1"),
    ];
    snapshot("commit1", &resources)
}

fn second() -> Arc<Snapshot> {
    let resources = [
        (CLUSTER, "a", "1"),
        (ENDPOINT, "a", "2"),
        (CLUSTER, "b", "1"),
        (ENDPOINT, "b", "1"),
        (LISTENER, "l", "1"),
        (ROUTE, "r", "to b"),
        (POLICY_BUNDLE, "p", "1"),
        (REVISION, "mesh", "commit2"),
    ];
    snapshot("commit2", &resources)
}

async fn connected() -> (Arc<World>, Log, Server, Running) {
    let (world, mut log) = World::new(first());
    let server = Server::start(&world);
    let client = Running::start("prod/board~1", server.address, None);
    client.sink.has(&first()).await;
    log_until(&mut log, "settled commit1").await;
    client.sink.take_updates();
    (world, log, server, client)
}

#[tokio::test]
async fn the_first_state_comes_in_order_and_later_only_what_changed() {
    let (world, mut log) = World::new(first());
    let server = Server::start(&world);
    let mut client = Running::start("prod/board~1", server.address, None);
    client.sink.has(&first()).await;
    assert_eq!(client.sink.take_updates(), ["policy +p", "CDS +a", "EDS +a", "LDS +l", "RDS +r", "revision +mesh"]);
    let lines = log_until(&mut log, "settled commit1").await;
    assert_eq!(lines.iter().filter(|line| line.starts_with("open")).collect::<Vec<_>>(), ["open prod/board~1 None"]);
    let status = client.status(|status| &*status.revision == "commit1").await;
    assert!(status.connected && !status.from_cache && status.nacks == 0, "{status:?}");

    world.snapshots.send_replace(second());
    client.sink.has(&second()).await;
    assert_eq!(client.sink.take_updates(), ["CDS +b", "EDS +a", "EDS +b", "RDS +r", "revision +mesh"]);
    log_until(&mut log, "settled commit2").await;
    client.status(|status| &*status.revision == "commit2").await;

    world.snapshots.send_replace(first());
    client.sink.has(&first()).await;
    let updates = client.sink.take_updates();
    assert_eq!(updates, ["EDS +a", "RDS +r", "CDS -b", "EDS -b", "revision +mesh"]);
}

#[tokio::test]
async fn a_bad_resource_is_refused_by_name_and_the_others_apply() {
    let (world, mut log, _server, mut client) = connected().await;
    let mut bad = (*second()).clone();
    for resource in snapshot("", &[(CLUSTER, "b", "bad lb_policy"), (CLUSTER, "c", "1")]).get(CLUSTER).values() {
        bad.insert(resource.clone());
    }
    world.snapshots.send_replace(Arc::new(bad));
    let lines = log_until(&mut log, "nack").await;
    assert_eq!(lines.last().expect("a line"), r#"nack CDS commit2 ["b", "c"]: b: field: bad lb_policy"#);
    log_until(&mut log, "settled commit2").await;
    let status = client.status(|status| status.nacks == 1 && &*status.revision == "commit2").await;
    assert_eq!(status.refused[CLUSTER].len(), 1);
    let view = client.sink.view.borrow().clone();
    assert_eq!(view.get(&(CLUSTER, "c".to_owned())).map(String::as_str), Some("1"));
    assert_eq!(view.get(&(CLUSTER, "b".to_owned())), None);

    world.snapshots.send_replace(second());
    client.sink.has(&second()).await;
    let status = client.status(|status| status.refused.is_empty()).await;
    assert_eq!(status.nacks, 1);
}

#[tokio::test]
async fn after_a_reconnect_only_what_changed_meanwhile_is_sent() {
    let (world, mut log, mut server, mut client) = connected().await;
    server.kill();
    let status = client.status(|status| !status.connected && status.last_error.is_some()).await;
    assert_eq!(&*status.revision, "commit1", "what is in force stays");
    client.sink.has(&first()).await;
    world.snapshots.send_replace(second());
    let _server = Server::start_at(&world, server.address);
    client.sink.has(&second()).await;
    assert_eq!(client.sink.take_updates(), ["CDS +b", "EDS +a", "EDS +b", "RDS +r", "revision +mesh"]);
    log_until(&mut log, "settled commit2").await;
    client.status(|status| status.connected && status.last_error.is_none()).await;
}

/// What a client of `prod/board~1` leaves in the file `xds` of a folder; and the address of its server, which is gone too.
async fn left_behind() -> (tempfile::TempDir, Arc<World>, Log, std::net::SocketAddr) {
    let folder = tempfile::tempdir().expect("a folder");
    let (world, mut log) = World::new(first());
    let mut server = Server::start(&world);
    let client = Running::start("prod/board~1", server.address, Some(folder.path().join("xds")));
    client.sink.has(&first()).await;
    log_until(&mut log, "settled commit1").await;
    server.kill();
    client.stop().await;
    (folder, world, log, server.address)
}

#[tokio::test]
async fn a_restarted_client_runs_from_its_cache_and_resumes() {
    let (folder, world, mut log, address) = left_behind().await;
    let cache = folder.path().join("xds");

    let mut restarted = Running::start("prod/board~1", address, Some(cache.clone()));
    restarted.sink.has(&first()).await;
    assert_eq!(restarted.sink.take_updates(), ["policy +p", "CDS +a", "EDS +a", "LDS +l", "RDS +r", "revision +mesh"]);
    let status = restarted.status(|status| status.from_cache && status.last_error.is_some()).await;
    assert!(!status.connected && &*status.revision == "commit1", "{status:?}");

    let _server = Server::start_at(&world, address);
    let status = restarted.status(|status| status.connected).await;
    assert!(!status.from_cache);
    log_until(&mut log, "settled commit1").await;
    assert_eq!(restarted.sink.take_updates(), Vec::<String>::new(), "it has all that");
    world.snapshots.send_replace(second());
    restarted.sink.has(&second()).await;
}

#[tokio::test]
async fn the_cache_of_another_service_and_a_damaged_one_are_not_applied() {
    let (folder, _world, _log, address) = left_behind().await;
    let cache = folder.path().join("xds");

    let other =
        tokio::sync::watch::Sender::new(weft_xds::Node { cluster: "prod/other".into(), ..node("prod/other~1") });
    let sink = TestSink::default();
    let client = weft_xds::Client::new(other.subscribe(), Some(cache.clone()), move || common::channel(address));
    let mut status = client.status();
    let task = tokio::spawn(client.run(sink.clone()));
    soon(status.wait_for(|status| status.last_error.is_some())).await.expect("the client lives");
    assert!(sink.view.borrow().is_empty() && !status.borrow().from_cache);
    task.abort();

    std::fs::write(&cache, b"weft-xds-cache1\nnonsense").expect("written");
    let mut client = Running::start("prod/board~1", address, Some(cache));
    client.status(|status| status.last_error.is_some()).await;
    assert!(client.sink.view.borrow().is_empty());
}

#[tokio::test]
async fn a_client_that_ends_has_everything_on_disk_and_waits_for_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("xds");
    let (world, mut log) = World::new(first());
    let mut server = Server::start(&world);
    let client = Running::start("prod/board~1", server.address, Some(cache.clone()));
    client.sink.has(&first()).await;
    log_until(&mut log, "settled commit1").await;
    world.snapshots.send_replace(second());
    client.sink.has(&second()).await;
    client.stop().await;
    server.kill();

    // A server that takes connections and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let client = Running::start("prod/board~1", silent.local_addr().expect("it listens"), Some(cache));
    client.sink.has(&second()).await;
    let _asked = soon(silent.accept()).await.expect("the client connects");
    client.stop().await;
}

#[tokio::test]
async fn a_changed_node_is_sent_again_and_may_be_refused() {
    let (_world, mut log, _server, mut client) = connected().await;
    client.node.send_replace(node("prod/board~2"));
    log_until(&mut log, "node prod/board~2").await;
    client.node.send_replace(node("impostor"));
    log_until(&mut log, "closed").await;
    let status = client.status(|status| status.last_error.is_some()).await;
    assert_eq!(status.last_error.as_deref(), Some("PermissionDenied: no longer who it was"));
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why() {
    let (world, _log) = World::new(first());
    let server = Server::start(&world);
    let mut client = Running::start("stranger", server.address, None);
    let status = client.status(|status| status.last_error.is_some()).await;
    assert_eq!(status.last_error.as_deref(), Some("PermissionDenied: the certificate is not that of stranger"));
    assert!(!status.connected && client.sink.view.borrow().is_empty());
}

#[tokio::test]
async fn the_observer_hears_when_a_client_is_gone() {
    let (_world, mut log, _server, client) = connected().await;
    client.stop().await;
    log_until(&mut log, "closed").await;
}

#[tokio::test]
async fn a_stream_ends_when_its_state_is_no_longer_kept() {
    let (world, mut log) = World::new(first());
    let server = Server::start(&world);
    let mut client = Running::start("prod/board~1", server.address, None);
    log_until(&mut log, "settled commit1").await;
    drop((world, server));
    client.status(|status| status.last_error.is_some()).await;
    client.sink.has(&first()).await;
}

#[tokio::test]
async fn a_client_that_sends_no_more_gets_what_it_asked_for_and_then_the_end() {
    let (world, mut log) = World::new(first());
    let server = Server::start(&world);
    let channel = common::channel(server.address).await.expect("a connection");
    let mut client = AggregatedDiscoveryServiceClient::new(channel);

    let ask = |type_url: &str, names: &[&str]| pb::DeltaDiscoveryRequest {
        node: Some(node("tool")),
        type_url: type_url.to_owned(),
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    };
    // Routes wait for the answers to all the others; here none comes.
    let asked = [ask(ROUTE, &["r"]), ask(LISTENER, &[]), ask(ENDPOINT, &["a", "none"]), ask(CLUSTER, &[])];
    let stream = client.delta_aggregated_resources(tokio_stream::iter(asked)).await.expect("a stream").into_inner();
    let told: Result<Vec<_>, _> = soon(tokio_stream::StreamExt::collect(stream)).await;
    let told = told.expect("an orderly end");
    let short = |type_url: &str| weft_xds::type_url::short(type_url).to_owned();
    assert_eq!(told.iter().map(|one| short(&one.type_url)).collect::<Vec<_>>(), ["CDS", "EDS", "LDS", "RDS"]);
    assert_eq!(told[1].removed_resources, ["none"]);
    let lines = log_until(&mut log, "closed").await;
    assert!(!lines.iter().any(|line| line.starts_with("settled")), "nobody said so: {lines:?}");

    let asked = pb::DiscoveryRequest { node: Some(node("tool")), type_url: CLUSTER.to_owned(), ..Default::default() };
    let stream = client.stream_aggregated_resources(tokio_stream::once(asked)).await.expect("a stream").into_inner();
    let told: Result<Vec<_>, _> = soon(tokio_stream::StreamExt::collect(stream)).await;
    assert_eq!(told.expect("an orderly end").iter().map(|one| one.resources.len()).collect::<Vec<_>>(), [1]);
}
