//! A real Envoy 1.40 takes its configuration from us: delta and state of the world, directly and through the relay.
//!
//! Envoy is `$WEFT_ENVOY`, or `.venv/bin/envoy` of the repository; without it the tests say so and pass.

mod common;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::{Log, Server, World, log_until, snapshot, soon};
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::envoy::config::listener::v3::filter::ConfigType as NetworkConfig;
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener};
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType as HttpConfig;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds,
};
use prost::{Message, Name};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_stream::wrappers::UnixListenerStream;
use weft_tests::ports::free;
use weft_xds::type_url::{CLUSTER, ENDPOINT, LISTENER, ROUTE};
use weft_xds::{AdsServer, Any, Client, Directory, Relay, Resource, Snapshot};

fn envoy_binary() -> Option<PathBuf> {
    let local = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/bin/envoy");
    let binary = std::env::var_os("WEFT_ENVOY").map_or(local, PathBuf::from);
    if binary.exists() {
        return Some(binary);
    }
    println!("skipped: there is no Envoy at {}; set WEFT_ENVOY", binary.display());
    None
}

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

fn ads() -> Option<core::ConfigSource> {
    let config_source_specifier = Some(ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {}));
    Some(core::ConfigSource {
        config_source_specifier,
        resource_api_version: core::ApiVersion::V3.into(),
        ..Default::default()
    })
}

fn address(to: SocketAddr) -> Option<core::Address> {
    let port_specifier = Some(core::socket_address::PortSpecifier::PortValue(to.port().into()));
    let socket = core::SocketAddress { address: to.ip().to_string(), port_specifier, ..Default::default() };
    Some(core::Address { address: Some(core::address::Address::SocketAddress(socket)) })
}

/// `timeout` makes versions that differ.
fn cluster(name: &str, timeout: i64) -> Arc<Resource> {
    let cluster = Cluster {
        name: name.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: ads(), service_name: name.into() }),
        connect_timeout: Some(envoy_types::pb::google::protobuf::Duration { seconds: timeout, nanos: 0 }),
        ..Default::default()
    };
    Resource::new(CLUSTER, name, &cluster)
}

fn endpoints(name: &str, to: SocketAddr) -> Arc<Resource> {
    let identifier = endpoint::Endpoint { address: address(to), ..Default::default() };
    let host_identifier = Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(identifier));
    let lb_endpoints = vec![endpoint::LbEndpoint { host_identifier, ..Default::default() }];
    let endpoints = vec![endpoint::LocalityLbEndpoints { lb_endpoints, ..Default::default() }];
    let assignment = endpoint::ClusterLoadAssignment { cluster_name: name.into(), endpoints, ..Default::default() };
    Resource::new(ENDPOINT, name, &assignment)
}

fn routes(to: &str) -> Arc<Resource> {
    use route::route::Action;
    use route::route_action::ClusterSpecifier;
    use route::route_match::PathSpecifier;
    let action =
        route::RouteAction { cluster_specifier: Some(ClusterSpecifier::Cluster(to.into())), ..Default::default() };
    let path_specifier = Some(PathSpecifier::Prefix("/".into()));
    let rule = route::Route {
        r#match: Some(route::RouteMatch { path_specifier, ..Default::default() }),
        action: Some(Action::Route(action)),
        ..Default::default()
    };
    let host =
        route::VirtualHost { name: "all".into(), domains: vec!["*".into()], routes: vec![rule], ..Default::default() };
    let config = route::RouteConfiguration { name: "egress".into(), virtual_hosts: vec![host], ..Default::default() };
    Resource::new(ROUTE, "egress", &config)
}

fn listener(name: &str, at: SocketAddr, filter: &str) -> Arc<Resource> {
    let router = HttpFilter {
        name: filter.into(),
        config_type: Some(HttpConfig::TypedConfig(if filter == "router" {
            any(&Router::default())
        } else {
            Any { type_url: "type.googleapis.com/nobody.knows.This".into(), value: Vec::new() }
        })),
        ..Default::default()
    };
    let manager = HttpConnectionManager {
        stat_prefix: name.into(),
        route_specifier: Some(RouteSpecifier::Rds(Rds { config_source: ads(), route_config_name: "egress".into() })),
        http_filters: vec![router],
        ..Default::default()
    };
    let filter = Filter { name: "hcm".into(), config_type: Some(NetworkConfig::TypedConfig(any(&manager))) };
    let listener = Listener {
        name: name.into(),
        address: address(at),
        filter_chains: vec![FilterChain { filters: vec![filter], ..Default::default() }],
        ..Default::default()
    };
    Resource::new(LISTENER, name, &listener)
}

/// Answers every request with a body.
async fn app(body: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(1..) = stream.read(&mut buffer).await {
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

/// Envoy waits for the endpoints of a cluster for 15 s.
const ENVOY_GIVES_UP: Duration = Duration::from_secs(14);

/// Status line and body, or what went wrong.
async fn get(from: SocketAddr) -> Result<(String, String), std::io::Error> {
    let mut stream = TcpStream::connect(from).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    Ok((head.lines().next().unwrap_or_default().to_owned(), body.to_owned()))
}

/// Waits until requests are answered with `body`.
async fn answers(from: SocketAddr, body: &str) {
    soon(async {
        while !matches!(get(from).await, Ok((status, text)) if status.contains(" 200 ") && text == body) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// A process that ends with the test, and its output if the test fails.
struct Envoy {
    process: Child,
    log: PathBuf,
}

impl Envoy {
    fn start(binary: &Path, folder: &Path, socket: &Path, api_type: &str) -> Self {
        let bootstrap = format!(
            "node: {{id: prod/board~1, cluster: prod/board}}
dynamic_resources:
  ads_config:
    api_type: {api_type}
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services: [{{envoy_grpc: {{cluster_name: weft_agent}}}}]
  cds_config: {{ads: {{}}, resource_api_version: V3}}
  lds_config: {{ads: {{}}, resource_api_version: V3}}
static_resources:
  clusters:
  - name: weft_agent
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: weft_agent
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{pipe: {{path: {}}}}}}}}}]}}]
",
            socket.display()
        );
        let (config, log) = (folder.join("envoy.yaml"), folder.join("envoy.log"));
        std::fs::write(&config, bootstrap).expect("written");
        let output = std::fs::File::create(&log).expect("a log");
        let process = Command::new(binary)
            .args([
                "--concurrency",
                "1",
                "--disable-hot-restart",
                "-l",
                "warning",
                "--component-log-level",
                "upstream:debug,config:debug",
                "-c",
            ])
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .expect("Envoy starts");
        Self { process, log }
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            println!("{}", std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

fn serve<D: Directory>(directory: Arc<D>, folder: &Path) -> PathBuf {
    let socket = folder.join("ads");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let server = weft_xds::server_builder().add_service(AdsServer::new(directory).ads());
    tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
    socket
}

/// Sends requests until it is told to stop; every failure counts.
struct Load {
    stop: Arc<AtomicBool>,
    failures: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<usize>,
}

impl Load {
    fn start(on: SocketAddr) -> Self {
        let (stop, failures) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let task = tokio::spawn({
            let (stop, failures) = (stop.clone(), failures.clone());
            async move {
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) {
                    match get(on).await {
                        Ok((status, _)) if status.contains(" 200 ") => {}
                        bad => {
                            failures.fetch_add(1, Ordering::Relaxed);
                            println!("{bad:?}");
                        }
                    }
                    sent += 1;
                }
                sent
            }
        });
        Self { stop, failures, task }
    }

    async fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        let sent = soon(self.task).await.expect("no panic");
        assert_eq!(self.failures.load(Ordering::Relaxed), 0, "failures of {sent} requests");
        assert!(sent > 10, "only {sent} requests");
    }
}

struct Apps {
    a: SocketAddr,
    b: SocketAddr,
}

impl Apps {
    async fn start() -> Self {
        Self { a: app("a").await, b: app("b").await }
    }

    /// Everything that leads requests at `at` to one app, and nothing of the other.
    fn to(&self, name: &str, revision: &str, at: SocketAddr) -> Snapshot {
        let app = if name == "a" { self.a } else { self.b };
        let base = (*snapshot(revision, &[])).clone();
        base.with(cluster(name, 1)).with(endpoints(name, app)).with(routes(name)).with(listener("egress", at, "router"))
    }
}

async fn through_changes(api_type: &str) {
    let Some(binary) = envoy_binary() else { return };
    let (folder, apps, at) = (tempfile::tempdir().expect("a folder"), Apps::start().await, free());
    let (world, mut log) = World::new(Arc::new(apps.to("a", "1", at)));
    let socket = serve(world.clone(), folder.path());
    let _envoy = Envoy::start(&binary, folder.path(), &socket, api_type);
    log_until(&mut log, "ack RDS 1").await;
    answers(at, "a").await;

    // Clusters come and go, and are rebuilt, under load.
    let load = Load::start(at);
    for round in 0..6 {
        let begin = std::time::Instant::now();
        let name = ["b", "a"][round % 2];
        let revision = format!("move{round}");
        world.snapshots.send_replace(Arc::new(apps.to(name, &revision, at)));
        answers(at, name).await;
        wait_settled(&mut log, &revision).await;
        assert!(begin.elapsed() < ENVOY_GIVES_UP, "Envoy has waited for endpoints: {:?}", begin.elapsed());
        let revision = format!("rebuild{round}");
        let rebuilt = apps.to(name, &revision, at).with(cluster(name, 2));
        world.snapshots.send_replace(Arc::new(rebuilt));
        wait_settled(&mut log, &revision).await;
    }
    load.finish().await;

    // A bad listener is refused with its name and the reason, and the good one serves on.
    let bad = apps.to("a", "bad", at).with(listener("ingress", free(), "nobody"));
    world.snapshots.send_replace(Arc::new(bad));
    let lines = log_until(&mut log, "nack LDS").await;
    let nack = lines.last().expect("a line");
    assert!(
        nack.starts_with("nack LDS bad") && nack.contains("ingress") && nack.contains("nobody.knows.This"),
        "{nack}"
    );
    wait_settled(&mut log, "bad").await;
    answers(at, "a").await;

    // And once it is repaired, all is well again.
    let port = free();
    world.snapshots.send_replace(Arc::new(apps.to("b", "good", at).with(listener("ingress", port, "router"))));
    wait_settled(&mut log, "good").await;
    answers(port, "b").await;
    answers(at, "b").await;
}

async fn wait_settled(log: &mut Log, revision: &str) {
    let lines = log_until(log, &format!("settled {revision}")).await;
    assert!(lines.iter().all(|line| !line.starts_with("nack") || revision == "bad"), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_follows_changes_by_delta_without_a_failed_request() {
    through_changes("DELTA_GRPC").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_follows_changes_by_state_of_the_world_without_a_failed_request() {
    through_changes("GRPC").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_behind_the_relay_is_heard_upstream_and_outlives_the_server() {
    let Some(binary) = envoy_binary() else { return };
    let (folder, apps, at) = (tempfile::tempdir().expect("a folder"), Apps::start().await, free());
    let (world, mut log) = World::new(Arc::new(apps.to("a", "1", at)));
    let mut server = Server::start(&world);
    let (cache, upstream) = (folder.path().join("cache"), server.address);
    let follow = |relay: &Relay| {
        let node = tokio::sync::watch::Sender::new(common::node("prod/board~1"));
        let client = Client::new(node.subscribe(), Some(cache.clone()), move || common::channel(upstream));
        (node, tokio::spawn(client.run(relay.clone())))
    };
    let relay = Relay::new();
    let socket = serve(Arc::new(relay.clone()), folder.path());
    let envoy = Envoy::start(&binary, folder.path(), &socket, "DELTA_GRPC");
    let (node, client) = follow(&relay);
    wait_settled(&mut log, "1").await;
    answers(at, "a").await;

    let load = Load::start(at);
    for round in 0..4 {
        let name = ["b", "a"][round % 2];
        let revision = format!("move{round}");
        world.snapshots.send_replace(Arc::new(apps.to(name, &revision, at)));
        wait_settled(&mut log, &revision).await;
        answers(at, name).await;
    }
    load.finish().await;

    world.snapshots.send_replace(Arc::new(apps.to("b", "bad", at).with(listener("ingress", free(), "nobody"))));
    let lines = log_until(&mut log, "nack LDS").await;
    let nack = lines.last().expect("a line");
    assert!(
        nack.starts_with("nack LDS bad") && nack.contains("ingress: ") && nack.contains("nobody.knows.This"),
        "{nack}"
    );
    wait_settled(&mut log, "bad").await;
    answers(at, "b").await;

    // Neither the server nor the old Envoy is there any more: a new one runs from the cache.
    server.kill();
    drop((envoy, node, relay));
    soon(client).await.expect("no panic");
    std::fs::remove_file(&socket).expect("removed");
    let relay = Relay::new();
    let socket = serve(Arc::new(relay.clone()), folder.path());
    let _client = follow(&relay);
    let begin = std::time::Instant::now();
    let _envoy = Envoy::start(&binary, folder.path(), &socket, "DELTA_GRPC");
    answers(at, "b").await;
    assert!(begin.elapsed() < ENVOY_GIVES_UP, "Envoy has waited for something: {:?}", begin.elapsed());
}
