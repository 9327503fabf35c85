//! Our proxy and a real Envoy, with the same filter and the same ext_authz server: both ask the same, and make the same of each answer.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption, QueryParameter};
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use envoy_types::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryResponse;
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::{Any, BoolValue, Struct, Value as PbValue, value::Kind};
use envoy_types::pb::google::rpc;
use prost::{Message, Name};
use serde_json::{Value, json};
use tonic::{Request, Response, Status};
use weft_compile::testing::{self, MESH, service};
use weft_identity::LiveIdentity;
use weft_proxy::{Proxy, ProxyConfig, ProxyHandle};
use weft_tests::app::App;
use weft_tests::curl::{self, Reply};
use weft_tests::{log, peers, ports, wait};
use weft_xds::{Resource, Sink as _, Snapshot, Update, type_url};

/// Answers by the path that it is asked about.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<Vec<CheckRequest>>>);

fn option(key: &str, value: &str, append_action: i32) -> HeaderValueOption {
    let header = Some(HeaderValue { key: key.into(), value: value.into(), ..Default::default() });
    HeaderValueOption { header, append_action, ..Default::default() }
}

fn answered(code: i32, http_response: Option<HttpResponse>) -> CheckResponse {
    let text = |value: &str| PbValue { kind: Some(Kind::StringValue(value.into())) };
    let fields = [("decision", "so"), ("decision_id", "d1"), ("policy", "opa/x.rego:7")];
    let metadata = Struct { fields: fields.map(|(key, value)| (key.to_owned(), text(value))).into() };
    CheckResponse {
        status: Some(rpc::Status { code, ..Default::default() }),
        dynamic_metadata: Some(metadata),
        http_response,
    }
}

fn denied(code: i32) -> DeniedHttpResponse {
    DeniedHttpResponse {
        status: Some(HttpStatus { code }),
        headers: vec![option("x-why", "because", 2), option("content-type", "text/x-reason", 2)],
        body: "not today".into(),
    }
}

#[tonic::async_trait]
impl Authorization for Server {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let check = request.into_inner();
        let path = http(check.attributes.as_ref().unwrap()).path.clone();
        self.0.lock().unwrap().push(check);
        let ok = |ok| answered(0, Some(HttpResponse::OkResponse(ok)));
        let no = |denied| answered(7, Some(HttpResponse::DeniedResponse(denied)));
        Ok(Response::new(match path.split('?').next().unwrap() {
            "/ok" => answered(0, None),
            "/nothing" => CheckResponse::default(),
            // Envoy 1.40 overwrites whatever the action is; the two that it does not know are tried in `mutation.rs`.
            "/headers" => ok(OkHttpResponse {
                headers: vec![
                    option("x-there", "replaced", 0),
                    option("x-absent", "added", 0),
                    option("x-there-3", "replaced", 2),
                    option("x-absent-3", "added", 2),
                ],
                headers_to_remove: vec!["x-gone".into(), ":method".into(), "host".into()],
                ..Default::default()
            }),
            #[allow(deprecated)]
            "/append" => ok(OkHttpResponse {
                headers: [("x-there", true), ("x-there-2", false), ("x-absent", true), ("x-absent-2", false)]
                    .map(|(key, append)| HeaderValueOption {
                        append: Some(BoolValue { value: append }),
                        ..option(key, "new", 0)
                    })
                    .into(),
                ..Default::default()
            }),
            "/path" => ok(OkHttpResponse { headers: vec![option(":path", "/elsewhere?x=1", 2)], ..Default::default() }),
            "/query" => ok(OkHttpResponse {
                query_parameters_to_set: vec![QueryParameter { key: "b".into(), value: "9".into() }],
                query_parameters_to_remove: vec!["a".into()],
                ..Default::default()
            }),
            "/response" => {
                ok(OkHttpResponse { response_headers_to_add: vec![option("x-of-authz", "1", 2)], ..Default::default() })
            }
            "/deny" => no(denied(451)),
            "/deny-grpc" => no(DeniedHttpResponse { headers: vec![option("grpc-status", "16", 2)], ..denied(403) }),
            "/deny-by-default" => answered(7, None),
            "/deny-in-ok" => answered(5, Some(HttpResponse::OkResponse(OkHttpResponse::default()))),
            "/fails" => return Err(Status::internal("no")),
            "/silent" => std::future::pending().await,
            other => panic!("{other}"),
        }))
    }
}

fn http(attributes: &AttributeContext) -> &HttpRequest {
    attributes.request.as_ref().unwrap().http.as_ref().unwrap()
}

/// What the control plane gives a sidecar whose service is decided about by a server, without TLS: clusters and its ingress.
fn resources(folder: &Path, app: SocketAddr, authz: SocketAddr, rest: &str) -> (Vec<Cluster>, Listener) {
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
    (clusters.collect(), listener)
}

fn address(listener: &Listener) -> SocketAddr {
    use envoy_types::pb::envoy::config::core::v3::{address::Address, socket_address::PortSpecifier};
    let Some(Address::SocketAddress(at)) = listener.address.as_ref().unwrap().address.as_ref() else { panic!() };
    let Some(PortSpecifier::PortValue(port)) = at.port_specifier else { panic!() };
    SocketAddr::new(at.address.parse().unwrap(), port as u16)
}

/// One of the two.
struct Subject {
    name: &'static str,
    at: SocketAddr,
    folder: tempfile::TempDir,
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

async fn weft(app: SocketAddr, authz: SocketAddr, rest: &str) -> Subject {
    let folder = tempfile::tempdir().unwrap();
    let (clusters, listener) = resources(folder.path(), app, authz, rest);
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

fn envoy(app: SocketAddr, authz: SocketAddr, rest: &str) -> Subject {
    let folder = tempfile::tempdir().unwrap();
    let (clusters, listener) = resources(folder.path(), app, authz, rest);
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

/// Paths, and what is sent beside.
const CALLS: [(&str, &[&str]); 16] = [
    ("/ok", &[]),
    (
        "/ok?a=1",
        &[
            "-X",
            "POST",
            "-d",
            "hello",
            "-H",
            "x-two: 1",
            "-H",
            "x-two: 2",
            "-H",
            "connection: x-mine",
            "-H",
            "x-mine: 1",
        ],
    ),
    ("/nothing", &[]),
    ("/headers", &THERE),
    ("/append", &THERE),
    ("/path", &[]),
    ("/query?a=1&b=2&c=3", &[]),
    ("/response", &[]),
    ("/deny", &[]),
    ("/deny", &["-I"]),
    ("/deny-grpc", &["-H", "content-type: application/grpc"]),
    ("/deny", &["-H", "content-type: application/grpc"]),
    ("/deny-by-default", &[]),
    ("/deny-in-ok", &[]),
    ("/fails", &[]),
    ("/silent", &[]),
];

const THERE: [&str; 10] =
    ["-H", "x-there: old", "-H", "x-there-2: old", "-H", "x-there-3: old", "-H", "x-there-4: old", "-H", "x-gone: old"];

/// What the caller, the app and the log were told.
#[derive(Debug, PartialEq)]
struct Outcome {
    status: u16,
    fields: BTreeMap<String, String>,
    body: Value,
    log: [Value; 7],
}

/// Differs from call to call, or is of the two proxies' own.
const OWN: [&str; 8] = [
    "date",
    "x-request-id",
    "traceparent",
    "tracestate",
    "proxy-status",
    "x-envoy-upstream-service-time",
    "content-length",
    "server",
];

fn outcome(reply: &Reply, line: &Value) -> Outcome {
    let is_shared = |name: &str| !OWN.contains(&name);
    let fields = reply.headers.iter().filter(|(name, _)| is_shared(name)).cloned().collect();
    let mut body = serde_json::from_str(&reply.body).unwrap_or_else(|_| json!(reply.body));
    if let Some(headers) = body.get_mut("headers").and_then(Value::as_array_mut) {
        headers.retain(|pair| is_shared(pair[0].as_str().unwrap()));
        headers.sort_by_key(Value::to_string);
    }
    if let Some(problem) = body.as_object_mut() {
        // Envoy has no words of its own.
        problem.retain(|key, _| !["request_id", "detail"].contains(&&**key));
    }
    let keys = [
        "response_code",
        "response_flags",
        "response_code_details",
        "decision",
        "decision_id",
        "policy",
        "authz_failed_open",
    ];
    Outcome { status: reply.status, fields, body, log: keys.map(|key| line[key].clone()) }
}

fn outcomes(subject: &Subject) -> Vec<Outcome> {
    let log = subject.folder.path().join("access.json");
    let replies: Vec<_> = CALLS
        .iter()
        .enumerate()
        .map(|(number, (target, args))| {
            let id = format!("x-request-id: {}-{number}", subject.name);
            curl::get(subject.at, "board.prod", target, &[&["-H", &*id], *args].concat())
        })
        .collect();
    let each = replies.iter().enumerate();
    each.map(|(number, reply)| {
        let id = format!("{}-{number}", subject.name);
        let line = log::wait_line(&log, &format!("the line of {id}"), |line| line["request_id"] == *id);
        outcome(reply, &line)
    })
    .collect()
}

/// What both ask alike. Envoy says how much of a body has come by then, ours how long it is said to be; and Envoy tells of a TLS session also
/// where there is none.
fn question(check: &CheckRequest) -> Value {
    let attributes = check.attributes.as_ref().unwrap();
    let http = http(attributes);
    let shared = |name: &&String| !["x-request-id", "traceparent", "tracestate"].contains(&name.as_str());
    let headers: BTreeMap<_, _> = http.headers.iter().filter(|(name, _)| shared(name)).collect();
    let (source, destination) = (attributes.source.as_ref().unwrap(), attributes.destination.as_ref().unwrap());
    json!({
        "method": http.method, "path": http.path, "host": http.host, "scheme": http.scheme, "protocol": http.protocol,
        "query": http.query, "headers": headers, "body": http.body,
        "has_id": !http.id.is_empty(), "has_time": attributes.request.as_ref().unwrap().time.is_some(),
        "has_request_id": http.headers.contains_key("x-request-id"),
        "source": source.principal, "destination": destination.principal,
        "has_addresses": source.address.is_some() && destination.address.is_some(),
        "more": attributes.context_extensions.len(),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ask_the_same_and_make_the_same_of_each_answer() {
    let server = Server::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let authz = listener.local_addr().unwrap();
    let serving = tonic::transport::Server::builder().add_service(AuthorizationServer::new(server.clone()));
    tokio::spawn(serving.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)));
    let app = tokio::task::spawn_blocking(|| App::start("v1")).await.unwrap();
    for rest in ["timeout: 500ms", "timeout: 500ms, failOpen: true"] {
        let ours = weft(app.address(), authz, rest).await;
        let theirs = envoy(app.address(), authz, rest);
        let of = |subject: Subject| {
            let server = server.clone();
            tokio::task::spawn_blocking(move || {
                let outcomes = outcomes(&subject);
                let asked = std::mem::take(&mut *server.0.lock().unwrap());
                (outcomes, asked.iter().map(question).collect::<Vec<_>>())
            })
        };
        let (ours, our_questions) = of(ours).await.unwrap();
        let (theirs, their_questions) = of(theirs).await.unwrap();
        for (((target, args), ours), theirs) in CALLS.iter().zip(&ours).zip(&theirs) {
            assert_eq!(ours, theirs, "{rest}: {target} {args:?}, weft beside envoy");
        }
        assert_eq!(our_questions.len(), CALLS.len());
        for (ours, theirs) in our_questions.iter().zip(&their_questions) {
            assert_eq!(ours, theirs, "{rest}, weft beside envoy");
        }
    }
}
