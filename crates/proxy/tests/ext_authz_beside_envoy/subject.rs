//! Our proxy and an Envoy, with one configuration.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::listener::v3::{Listener, filter};
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{BufferSettings, ExtAuthz};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_filter,
};
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryResponse;
use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};
use serde_json::json;
use weft_compile::testing::{self, MESH, service};
use weft_identity::LiveIdentity;
use weft_proxy::{Proxy, ProxyConfig, ProxyHandle};
use weft_tests::{peers, ports, wait};
use weft_xds::{Resource, Sink as _, Snapshot, Update, type_url};

/// What the control plane gives a sidecar whose service is decided about by a server, without TLS: clusters and its ingress.
fn resources(folder: &Path, spec: &Spec<'_>) -> (Vec<Cluster>, Listener) {
    let &Spec { app, authz, rest, body } = spec;
    let yaml = [MESH.to_owned(), service("prod/board", &format!("authorization: {{by: server, {rest}}}"))].concat();
    let files = [weft_model::source::SourceFile::new("mesh.yaml", yaml.as_bytes())];
    let intent = weft_model::parse::parse(&files).0.unwrap(); // warnings aside
    let mesh = testing::compiled(intent, "c1");
    let access_log = folder.join("access.json").display().to_string();
    let proxy = weft_compile::Proxy {
        app,
        authz: Some(authz),
        ingress: ports::free(),
        access_log,
        ..testing::sidecar("prod/board", 1)
    };
    let snapshot: Snapshot = weft_compile::compile(&mesh, &Default::default(), &proxy);
    let clusters = snapshot.get(type_url::CLUSTER).values().map(|cluster| {
        let mut cluster: Cluster = cluster.decode().unwrap();
        cluster.transport_socket = None;
        cluster
    });
    let mut listener: Listener = snapshot.get(type_url::LISTENER)["ingress"].decode().unwrap();
    listener.filter_chains[0].transport_socket = None;
    listener.filter_chains[0].transport_socket_connect_timeout = None;
    if body.is_some() {
        show_body(&mut listener, body);
    }
    (clusters.collect(), listener)
}

/// Has the filter that asks show bodies.
fn show_body(listener: &mut Listener, body: Option<BufferSettings>) {
    let Some(filter::ConfigType::TypedConfig(any)) =
        &mut listener.filter_chains[0].filters.last_mut().unwrap().config_type
    else {
        panic!("no filter of requests")
    };
    let mut manager = HttpConnectionManager::decode(&*any.value).unwrap();
    for filter in &mut manager.http_filters {
        match &mut filter.config_type {
            Some(http_filter::ConfigType::TypedConfig(any)) if any.type_url == ExtAuthz::type_url() => {
                let mut authz = ExtAuthz::decode(&*any.value).unwrap();
                authz.with_request_body = body;
                any.value = authz.encode_to_vec();
            }
            _ => {}
        }
    }
    any.value = manager.encode_to_vec();
}

fn address(listener: &Listener) -> SocketAddr {
    use envoy_types::pb::envoy::config::core::v3::{address::Address, socket_address::PortSpecifier};
    let Some(Address::SocketAddress(at)) = listener.address.as_ref().unwrap().address.as_ref() else { panic!() };
    let Some(PortSpecifier::PortValue(port)) = at.port_specifier else { panic!() };
    SocketAddr::new(at.address.parse().unwrap(), port as u16)
}

/// What both are made of.
#[derive(Clone, Copy)]
pub(crate) struct Spec<'a> {
    pub(crate) app: SocketAddr,
    pub(crate) authz: SocketAddr,
    /// Of `authorization`, in YAML.
    pub(crate) rest: &'a str,
    /// What the server is shown of bodies.
    pub(crate) body: Option<BufferSettings>,
}

/// One of the two.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) at: SocketAddr,
    pub(crate) folder: tempfile::TempDir,
    _running: Running,
}

#[allow(dead_code)] // held, not read
enum Running {
    Weft(Arc<ProxyHandle>),
    Envoy(Envoy),
}

struct Envoy(Child);

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) async fn weft(spec: &Spec<'_>) -> Subject {
    let folder = tempfile::tempdir().unwrap();
    let (clusters, listener) = resources(folder.path(), spec);
    let config = ProxyConfig {
        workers: 1,
        identity: LiveIdentity::empty(),
        service: "prod/board".parse().unwrap(),
        decision_log: None,
        plain_text: weft_decision_log::PlainText::new().0,
        admin: None,
        health: None,
        prometheus: None,
    };
    let proxy = Proxy::start(config).await.unwrap();
    let mut sink = proxy.sink();
    let clusters = clusters.iter().map(|cluster| Resource::new(type_url::CLUSTER, &cluster.name, cluster)).collect();
    let listeners = vec![Resource::new(type_url::LISTENER, "ingress", &listener)];
    for (type_url, changed) in [(type_url::CLUSTER, clusters), (type_url::LISTENER, listeners)] {
        let refused = sink.apply(Update { type_url, revision: "c1".into(), changed, removed: Vec::new() }).await;
        assert_eq!(refused, []);
    }
    Subject { name: "weft", at: address(&listener), folder, _running: Running::Weft(proxy) }
}

fn write_pb<M: Message + Name>(path: &Path, messages: &[M]) {
    let pack = |message: &M| Any { type_url: M::type_url(), value: message.encode_to_vec() };
    let response = DiscoveryResponse {
        version_info: "1".into(),
        type_url: M::type_url(),
        resources: messages.iter().map(pack).collect(),
        ..Default::default()
    };
    std::fs::write(path, response.encode_to_vec()).unwrap();
}

pub(crate) fn envoy(spec: &Spec<'_>) -> Subject {
    let folder = tempfile::tempdir().unwrap();
    let (clusters, listener) = resources(folder.path(), spec);
    let file = |name: &str| folder.path().join(name);
    write_pb(&file("cds.pb"), &clusters);
    write_pb(&file("lds.pb"), std::slice::from_ref(&listener));
    let source = |path: PathBuf| json!({"path_config_source": {"path": path}, "resource_api_version": "V3"});
    // Of the tracing, which sends nothing.
    let agent = json!({"name": "weft_agent", "type": "STATIC", "load_assignment": {"cluster_name": "weft_agent"}});
    let config = json!({
        "node": {"id": "prod/board~test", "cluster": "prod/board"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": ports::free().port()}}},
        "dynamic_resources": {"cds_config": source(file("cds.pb")), "lds_config": source(file("lds.pb"))},
        "static_resources": {"clusters": [agent]},
    });
    std::fs::write(file("envoy.json"), config.to_string()).unwrap();
    let child = Command::new(peers::venv("envoy"))
        .args([
            "--concurrency",
            "1",
            "--use-dynamic-base-id",
            "--log-level",
            "warning",
            "--file-flush-interval-msec",
            "50",
            "-c",
        ])
        .arg(file("envoy.json"))
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(file("envoy.log")).unwrap())
        .spawn()
        .unwrap();
    let running = Running::Envoy(Envoy(child));
    let subject = Subject { name: "envoy", at: address(&listener), folder, _running: running };
    wait::until("Envoy to listen", wait::SOON, || {
        std::net::TcpStream::connect(subject.at).map_err(|error| {
            format!("{error}\n{}", std::fs::read_to_string(subject.folder.path().join("envoy.log")).unwrap_or_default())
        })
    });
    subject
}
