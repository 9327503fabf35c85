//! The API over real sockets: what each caller gets, when, and in which words it is refused. The workloads behind it are made up here.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use prost_types::value::Kind;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint as Http};
use tonic::{Code, Request, Status};
use weft_identity::ca::{Ca, KeyRequest, requested_key};
use weft_identity::{Audience, JwtKey, JwtSigner, LiveIdentity, Names, OwnFault, Svid, TrustBundle};
use weft_model::{ServiceName, SpiffeId};
use weft_workload_api::client::provide;
use weft_workload_api::proto::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use weft_workload_api::proto::{
    JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, X509BundlesRequest, X509svidRequest,
};
use weft_workload_api::{Caller, Endpoint, Entitlement, Grant, Granted, Listener, Workloads, serve};

const SOON: Duration = Duration::from_secs(20);
const WEB: &str = "spiffe://acme.internal/ns/prod/sa/web";
const JOB: &str = "spiffe://acme.internal/ns/prod/sa/job";

/// A trust domain that issues.
struct Domain {
    name: &'static str,
    root: Ca,
    issuing: Ca,
    signer: Arc<JwtSigner>,
}

impl Domain {
    fn new(name: &'static str) -> Self {
        let (domain, now) = (name.parse().unwrap(), SystemTime::now());
        let root = Ca::root(&domain, now, Duration::from_secs(7200)).unwrap();
        let issuing = root.issuing(&domain, now, Duration::from_secs(3600)).unwrap();
        let signer = Arc::new(JwtSigner::from_pkcs8(&JwtSigner::make().unwrap()).unwrap());
        Self { name, root, issuing, signer }
    }

    fn svid(&self, id: &str, ttl: Duration) -> Arc<Svid> {
        let (request, now) = (KeyRequest::new().unwrap(), SystemTime::now());
        let key = requested_key(&request.csr).unwrap();
        let leaf = self.issuing.leaf(&key, &id.parse().unwrap(), None, &Names::default(), now, now + ttl).unwrap();
        Arc::new(Svid::from_der(vec![leaf, self.issuing.certificate().clone()], &request.key).unwrap())
    }

    fn bundle(&self) -> Arc<TrustBundle> {
        let key = JwtKey::from_spki(&self.signer.kid(), self.signer.spki().to_vec()).unwrap();
        let bundle = TrustBundle::new(self.name.parse().unwrap(), vec![self.root.certificate().clone()]).unwrap();
        Arc::new(bundle.with_jwt_keys(vec![key]).unwrap())
    }

    fn token(&self, id: &str, audience: &str, life: Duration) -> String {
        let audience = Audience::new(vec![audience.to_owned()]).unwrap();
        let now = SystemTime::now();
        self.signer.sign(&id.parse().unwrap(), &audience, now, now + life).unwrap()
    }

    fn grants(&self, ids: &[&str]) -> Entitlement {
        let granted = |id: &&str| Granted { svid: self.svid(id, SOON), hint: String::new() };
        let identities = ids.iter().map(granted).collect();
        Entitlement::Granted(Arc::new(Grant { identities, bundle: self.bundle(), federated: Vec::new() }))
    }
}

/// Whoever calls is entitled to what the test says.
struct Fake {
    entitled: watch::Sender<Entitlement>,
    signer: Arc<JwtSigner>,
    callers: Mutex<Vec<Caller>>,
}

#[tonic::async_trait]
impl Workloads for Fake {
    async fn attest(&self, caller: &Caller) -> Result<watch::Receiver<Entitlement>, Status> {
        self.callers.lock().unwrap().push(caller.clone());
        Ok(self.entitled.subscribe())
    }

    async fn jwt_svid(&self, _: &Caller, id: &SpiffeId, audience: &Audience) -> Result<Arc<str>, Status> {
        let now = SystemTime::now();
        Ok(self.signer.sign(id, audience, now, now + Duration::from_secs(300)).unwrap().into())
    }
}

/// An agent on a socket of its own.
struct Agent {
    domain: Domain,
    fake: Arc<Fake>,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Agent {
    /// Where everybody is `ids`.
    async fn start(ids: &[&str]) -> Self {
        let (domain, folder) = (Domain::new("acme.internal"), tempfile::tempdir().unwrap());
        let entitled = watch::Sender::new(domain.grants(ids));
        let fake = Arc::new(Fake { entitled, signer: domain.signer.clone(), callers: Mutex::default() });
        let socket = folder.path().join("w.sock");
        let listener = Listener::open(&Endpoint::Unix(socket.clone())).await.unwrap();
        tokio::spawn(serve(listener, fake.clone(), Default::default()));
        Self { domain, fake, socket, _folder: folder }
    }

    async fn client(&self) -> SpiffeWorkloadApiClient<Channel> {
        SpiffeWorkloadApiClient::new(unix(&self.socket).await)
    }
}

async fn unix(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let dial = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Http::from_static("http://localhost").connect_with_connector(dial).await.unwrap()
}

/// With the security header.
fn ask<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    request.set_timeout(SOON);
    request
}

fn jwt(audience: &[&str], id: &str) -> JwtsvidRequest {
    JwtsvidRequest { audience: audience.iter().map(ToString::to_string).collect(), spiffe_id: id.to_owned() }
}

fn validate(audience: &str, svid: &str) -> ValidateJwtsvidRequest {
    ValidateJwtsvidRequest { audience: audience.to_owned(), svid: svid.to_owned() }
}

/// What each of the five calls says, the first message of a stream.
async fn all(client: &mut SpiffeWorkloadApiClient<Channel>, header: Option<&str>) -> Vec<Code> {
    fn with<T>(message: T, header: Option<&str>) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(value) = header {
            request.metadata_mut().insert("workload.spiffe.io", value.parse().unwrap());
        }
        request
    }
    let code = |status: Status| status.code();
    vec![
        client.fetch_x509svid(with(X509svidRequest {}, header)).await.map_or_else(code, |_| Code::Ok),
        client.fetch_x509_bundles(with(X509BundlesRequest {}, header)).await.map_or_else(code, |_| Code::Ok),
        client.fetch_jwtsvid(with(jwt(&["db"], ""), header)).await.map_or_else(code, |_| Code::Ok),
        client.fetch_jwt_bundles(with(JwtBundlesRequest {}, header)).await.map_or_else(code, |_| Code::Ok),
        client.validate_jwtsvid(with(validate("db", "a.b.c"), header)).await.map_or_else(code, |_| Code::Ok),
    ]
}

#[tokio::test]
async fn a_request_without_the_security_header_is_refused_on_every_call() {
    let agent = Agent::start(&[WEB]).await;
    let mut client = agent.client().await;
    for header in [None, Some("false"), Some("True"), Some("true, true"), Some("")] {
        assert_eq!(all(&mut client, header).await, [Code::InvalidArgument; 5], "{header:?}");
    }
    let mut twice = ask(X509svidRequest {});
    twice.metadata_mut().append("workload.spiffe.io", "true".parse().unwrap());
    let status = client.fetch_x509svid(twice).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "security header missing from request"));
    assert!(agent.fake.callers.lock().unwrap().is_empty(), "nobody was asked about");
    let good = [Code::Ok, Code::Ok, Code::Ok, Code::Ok, Code::InvalidArgument];
    assert_eq!(all(&mut client, Some("true")).await, good, "the last one's token is none");
}

#[tokio::test]
async fn who_matches_nothing_gets_permission_denied() {
    let agent = Agent::start(&[]).await;
    let mut client = agent.client().await;
    for nothing in [agent.domain.grants(&[]), Entitlement::Nothing] {
        agent.fake.entitled.send_replace(nothing);
        assert_eq!(all(&mut client, Some("true")).await, [Code::PermissionDenied; 5]);
    }
    let status = client.fetch_x509svid(ask(X509svidRequest {})).await.unwrap_err();
    assert_eq!(status.message(), "no identity issued", "real clients know this text");
}

#[tokio::test]
async fn an_agent_without_a_server_yet_is_unavailable() {
    let agent = Agent::start(&[WEB]).await;
    let mut client = agent.client().await;
    agent.fake.entitled.send_replace(Entitlement::NotYet);
    assert_eq!(all(&mut client, Some("true")).await, [Code::Unavailable; 5]);
    // One whose identity has run out is not sent it: clients do not look.
    let expired = Granted { svid: agent.domain.svid(WEB, Duration::ZERO), hint: String::new() };
    let grant = Grant { identities: vec![expired], bundle: agent.domain.bundle(), federated: Vec::new() };
    agent.fake.entitled.send_replace(Entitlement::Granted(Arc::new(grant)));
    let status = client.fetch_x509svid(ask(X509svidRequest {})).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}

#[tokio::test]
async fn certificates_are_der_one_after_the_other_leaf_first() {
    let agent = Agent::start(&[WEB]).await;
    let mut stream = agent.client().await.fetch_x509svid(ask(X509svidRequest {})).await.unwrap().into_inner();
    let answer = stream.message().await.unwrap().unwrap();
    let Entitlement::Granted(grant) = agent.fake.entitled.borrow().clone() else { unreachable!() };
    let svid = &grant.identities[0].svid;
    let [got] = &answer.svids[..] else { panic!("{answer:?}") };
    assert_eq!(got.spiffe_id, WEB);
    assert_eq!(got.x509_svid, [&*svid.chain()[0], &*svid.chain()[1]].concat());
    assert_eq!(got.x509_svid_key, svid.private_key_der());
    assert_eq!(got.bundle, agent.domain.root.certificate().to_vec());
    let shown = format!("{answer:?}");
    assert!(shown.contains(WEB) && !shown.contains("key"), "no key is ever shown: {shown}");
}

#[tokio::test]
async fn the_first_message_comes_at_once_and_each_is_complete() {
    let agent = Agent::start(&[WEB, JOB]).await;
    let mut client = agent.client().await;
    let mut stream = client.fetch_x509svid(ask(X509svidRequest {})).await.unwrap().into_inner();
    let ids = |answer: weft_workload_api::proto::X509svidResponse| -> Vec<String> {
        answer.svids.into_iter().map(|svid| svid.spiffe_id).collect()
    };
    assert_eq!(ids(stream.message().await.unwrap().unwrap()), [WEB, JOB], "the first is the default");
    agent.fake.entitled.send_replace(agent.domain.grants(&[JOB]));
    assert_eq!(ids(stream.message().await.unwrap().unwrap()), [JOB], "what is absent was taken away");
    // Many at once have each their own stream.
    let mut again = client.fetch_x509svid(ask(X509svidRequest {})).await.unwrap().into_inner();
    assert_eq!(ids(again.message().await.unwrap().unwrap()), [JOB]);
}

#[tokio::test]
async fn a_hint_stands_once_and_is_never_long() {
    let agent = Agent::start(&[WEB]).await;
    let hints = ["", "", "same", "same", &"x".repeat(1025), &"y".repeat(1024)];
    let granted = |hint: &&str| Granted { svid: agent.domain.svid(WEB, SOON), hint: (*hint).to_owned() };
    let identities = hints.iter().map(granted).collect();
    let grant = Grant { identities, bundle: agent.domain.bundle(), federated: Vec::new() };
    agent.fake.entitled.send_replace(Entitlement::Granted(Arc::new(grant)));
    let told = ["", "", "same", "", "", &"y".repeat(1024)].map(str::to_owned);
    let mut client = agent.client().await;
    let mut stream = client.fetch_x509svid(ask(X509svidRequest {})).await.unwrap().into_inner();
    let svids = stream.message().await.unwrap().unwrap().svids;
    assert_eq!(svids.into_iter().map(|svid| svid.hint).collect::<Vec<_>>(), told);
    let tokens = client.fetch_jwtsvid(ask(jwt(&["db"], ""))).await.unwrap().into_inner().svids;
    assert_eq!(tokens.into_iter().map(|svid| svid.hint).collect::<Vec<_>>(), told);
}

#[tokio::test]
async fn a_rotation_and_a_new_root_send_a_message_and_what_is_taken_away_ends_the_stream() {
    let mut agent = Agent::start(&[WEB]).await;
    let mut client = agent.client().await;
    let mut svids = client.fetch_x509svid(ask(X509svidRequest {})).await.unwrap().into_inner();
    let mut roots = client.fetch_x509_bundles(ask(X509BundlesRequest {})).await.unwrap().into_inner();
    let mut keys = client.fetch_jwt_bundles(ask(JwtBundlesRequest {})).await.unwrap().into_inner();
    let first = svids.message().await.unwrap().unwrap();
    let (roots_before, keys_before) = (roots.message().await.unwrap().unwrap(), keys.message().await.unwrap().unwrap());

    // A rotation changes the SVID alone: the others, and a change that changes nothing, send nothing.
    let rotated = agent.domain.grants(&[WEB]);
    for _ in 0..2 {
        agent.fake.entitled.send_replace(rotated.clone());
    }
    let second = svids.message().await.unwrap().unwrap();
    assert_ne!(first.svids[0].x509_svid, second.svids[0].x509_svid);
    // Nor does what is missing for a while.
    agent.fake.entitled.send_replace(Entitlement::NotYet);

    agent.domain = Domain::new("acme.internal");
    agent.fake.entitled.send_replace(agent.domain.grants(&[WEB]));
    let third = svids.message().await.unwrap().unwrap();
    assert_eq!(third.svids[0].bundle, agent.domain.root.certificate().to_vec());
    let (roots_after, keys_after) = (roots.message().await.unwrap().unwrap(), keys.message().await.unwrap().unwrap());
    assert_eq!(roots_after.bundles["spiffe://acme.internal"], agent.domain.root.certificate().to_vec());
    assert!(roots_before != roots_after && keys_before != keys_after);

    agent.fake.entitled.send_replace(Entitlement::Nothing);
    for status in
        [svids.message().await.unwrap_err(), roots.message().await.unwrap_err(), keys.message().await.unwrap_err()]
    {
        assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "no identity issued"));
    }
}

#[tokio::test]
async fn bundles_always_have_the_own_trust_domain() {
    let agent = Agent::start(&[WEB]).await;
    let other = Domain::new("other.internal");
    let granted = Granted { svid: agent.domain.svid(WEB, SOON), hint: String::new() };
    let federated = vec![other.bundle()];
    let grant = Grant { identities: vec![granted], bundle: agent.domain.bundle(), federated };
    agent.fake.entitled.send_replace(Entitlement::Granted(Arc::new(grant)));
    let mut client = agent.client().await;
    let mut stream = client.fetch_x509_bundles(ask(X509BundlesRequest {})).await.unwrap().into_inner();
    let bundles = stream.message().await.unwrap().unwrap().bundles;
    let names: BTreeSet<&str> = bundles.keys().map(String::as_str).collect();
    assert_eq!(names, ["spiffe://acme.internal", "spiffe://other.internal"].into());
    assert_eq!(bundles["spiffe://other.internal"], other.root.certificate().to_vec());
    let mut stream = client.fetch_x509svid(ask(X509svidRequest {})).await.unwrap().into_inner();
    let answer = stream.message().await.unwrap().unwrap();
    assert_eq!(answer.federated_bundles.keys().collect::<Vec<_>>(), ["spiffe://other.internal"], "of others only");
    let mut stream = client.fetch_jwt_bundles(ask(JwtBundlesRequest {})).await.unwrap().into_inner();
    let bundles = stream.message().await.unwrap().unwrap().bundles;
    assert_eq!(bundles.keys().map(String::as_str).collect::<BTreeSet<_>>(), names);

    // A token of the other trust domain is judged by its bundle.
    let token = other.token("spiffe://other.internal/x", "db", SOON);
    let valid = client.validate_jwtsvid(ask(validate("db", &token))).await.unwrap().into_inner();
    assert_eq!(valid.spiffe_id, "spiffe://other.internal/x");
}

#[tokio::test]
async fn jwt_bundles_hold_jwt_keys_and_nothing_of_spiffe() {
    let agent = Agent::start(&[WEB]).await;
    let mut stream = agent.client().await.fetch_jwt_bundles(ask(JwtBundlesRequest {})).await.unwrap().into_inner();
    let answer = stream.message().await.unwrap().unwrap();
    let set: serde_json::Value = serde_json::from_slice(&answer.bundles["spiffe://acme.internal"]).unwrap();
    assert_eq!(set.as_object().unwrap().keys().collect::<Vec<_>>(), ["keys"]);
    let [key] = &set["keys"].as_array().unwrap()[..] else { panic!("{set}") };
    assert_eq!(key["kid"], agent.domain.signer.kid());
    assert!(key.get("use").is_none() && key.get("x5c").is_none(), "{key}");
}

#[tokio::test]
async fn jwt_svids_for_all_identities_or_for_the_one_asked() {
    let agent = Agent::start(&[WEB, JOB]).await;
    let mut client = agent.client().await;
    let all = client.fetch_jwtsvid(ask(jwt(&["db", "cache"], ""))).await.unwrap().into_inner();
    let ids: Vec<&str> = all.svids.iter().map(|svid| svid.spiffe_id.as_str()).collect();
    assert_eq!(ids, [WEB, JOB], "the first is that of the default");
    let one = client.fetch_jwtsvid(ask(jwt(&["db", "cache"], JOB))).await.unwrap().into_inner();
    let [one] = &one.svids[..] else { panic!("{one:?}") };
    assert_eq!(one.spiffe_id, JOB);
    for audience in ["db", "cache"] {
        let valid = client.validate_jwtsvid(ask(validate(audience, &one.svid))).await.unwrap().into_inner();
        assert_eq!(valid.spiffe_id, JOB);
    }
    let code = async |client: &mut SpiffeWorkloadApiClient<Channel>, id: &str| {
        client.fetch_jwtsvid(ask(jwt(&["db"], id))).await.unwrap_err().code()
    };
    assert_eq!(code(&mut client, "spiffe://acme.internal/ns/prod/sa/other").await, Code::PermissionDenied);
    assert_eq!(code(&mut client, "web").await, Code::InvalidArgument, "that is no SPIFFE ID");
}

#[tokio::test]
async fn each_empty_mandatory_field_is_an_invalid_argument() {
    let agent = Agent::start(&[WEB]).await;
    let mut client = agent.client().await;
    for audience in [&[][..], &["", ""][..]] {
        let status = client.fetch_jwtsvid(ask(jwt(audience, ""))).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("audience must be specified"), "{status:?}");
    }
    let token = agent.domain.token(WEB, "db", SOON);
    for (audience, svid) in [("", token.as_str()), ("db", ""), ("", "")] {
        let status = client.validate_jwtsvid(ask(validate(audience, svid))).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{audience}");
    }
    let huge = "a".repeat(100_000);
    assert!(client.validate_jwtsvid(ask(validate("db", &huge))).await.is_err(), "requests are bounded");
}

#[tokio::test]
async fn validate_refuses_what_the_jwt_table_refuses() {
    let agent = Agent::start(&[WEB]).await;
    let (mut client, stranger) = (agent.client().await, Domain::new("acme.internal"));
    let good = agent.domain.token(WEB, "db", SOON);
    let cases = [
        ("other", good.clone(), "for another audience"),
        ("db", agent.domain.token(WEB, "db", Duration::ZERO), "expired"),
        ("db", stranger.token(WEB, "db", SOON), "not in the bundle of acme.internal"),
        ("db", stranger.token("spiffe://other.internal/x", "db", SOON), "no bundle for the trust domain"),
        ("db", good[..good.len() - 8].to_owned(), "signature is wrong"),
        ("db", "eyJhbGciOiJub25lIn0.e30.".to_owned(), "algorithm"),
    ];
    for (audience, token, why) in cases {
        let status = client.validate_jwtsvid(ask(validate(audience, &token))).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{why}");
        assert!(status.message().contains(why) && !status.message().contains(&token), "{why}: {status:?}");
    }
    assert!(client.validate_jwtsvid(ask(validate("db", &good))).await.is_ok());
}

#[tokio::test]
async fn validate_gives_the_claims_back() {
    let agent = Agent::start(&[WEB]).await;
    let token = agent.domain.token(WEB, "db", SOON);
    let answer = agent.client().await.validate_jwtsvid(ask(validate("db", &token))).await.unwrap().into_inner();
    let claims = answer.claims.unwrap().fields;
    let names: BTreeSet<&str> = claims.keys().map(String::as_str).collect();
    assert_eq!(names, ["aud", "exp", "iat", "sub"].into());
    assert_eq!(claims["sub"].kind, Some(Kind::StringValue(WEB.to_owned())));
    assert!(matches!(&claims["aud"].kind, Some(Kind::ListValue(list)) if list.values.len() == 1));
    assert!(matches!(claims["exp"].kind, Some(Kind::NumberValue(seconds)) if seconds > 1.7e9));
}

#[tokio::test]
async fn wit_calls_are_unimplemented() {
    let agent = Agent::start(&[WEB]).await;
    for call in ["FetchWITSVID", "FetchWITBundles", "FetchAnything"] {
        let mut grpc = tonic::client::Grpc::new(unix(&agent.socket).await);
        grpc.ready().await.unwrap();
        let path = format!("/SpiffeWorkloadAPI/{call}").parse().unwrap();
        let codec = tonic_prost::ProstCodec::<X509svidRequest, X509svidRequest>::default();
        let status = grpc.unary(ask(X509svidRequest {}), path, codec).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{call}: {status:?}");
    }
}

#[test]
fn the_service_is_the_proto_and_no_more() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = protox::compile(["workload.proto"], [root.join("proto")]).unwrap();
    let file = files.file.iter().find(|file| file.name() == "workload.proto").unwrap();
    assert_eq!(file.package(), "", "the specification's has none");
    let [service] = &file.service[..] else { panic!("one service") };
    assert_eq!(service.name(), "SpiffeWorkloadAPI");
    let calls: BTreeSet<&str> = service.method.iter().map(|method| method.name()).collect();
    let specified = ["FetchX509SVID", "FetchX509Bundles", "FetchJWTSVID", "FetchJWTBundles", "ValidateJWTSVID"];
    assert_eq!(calls, specified.into());
    let streams: BTreeSet<&str> =
        service.method.iter().filter(|method| method.server_streaming()).map(|method| method.name()).collect();
    assert_eq!(streams, ["FetchX509SVID", "FetchX509Bundles", "FetchJWTBundles"].into());
}

#[tokio::test]
async fn the_caller_is_who_the_kernel_says_on_a_socket_and_on_loopback() {
    let agent = Agent::start(&[WEB]).await;
    let own = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap());
    agent.client().await.fetch_x509svid(ask(X509svidRequest {})).await.unwrap();
    let seen = agent.fake.callers.lock().unwrap().pop().unwrap();
    assert_eq!((seen.uid, seen.pid), (own, Some(i32::try_from(std::process::id()).unwrap())));

    let listener = Listener::open(&"tcp://127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address: SocketAddr = listener.endpoint().to_string()["tcp://".len()..].parse().unwrap();
    assert!(address.ip().is_loopback() && address.port() != 0);
    tokio::spawn(serve(listener, agent.fake.clone(), Default::default()));
    let dial = tower::service_fn(move |_| async move { TcpStream::connect(address).await.map(TokioIo::new) });
    let channel = Http::from_static("http://localhost").connect_with_connector(dial).await.unwrap();
    SpiffeWorkloadApiClient::new(channel).fetch_x509svid(ask(X509svidRequest {})).await.unwrap();
    let seen = agent.fake.callers.lock().unwrap().pop().unwrap();
    assert_eq!((seen.uid, seen.pid), (own, None));
}

#[test]
fn tcp_is_taken_on_loopback_only() {
    for text in ["tcp://0.0.0.0:8000", "tcp://192.0.2.1:8000", "tcp://[2001:db8::1]:8000"] {
        assert!(text.parse::<Endpoint>().unwrap_err().to_string().contains("no loopback address"), "{text}");
    }
    assert!("tcp://127.0.0.2:8000".parse::<Endpoint>().is_ok());
}

/// As gRPC's C core, and with it Python, calls over a Unix socket.
#[tokio::test]
async fn a_client_that_sends_the_path_of_the_socket_as_authority_is_served() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let agent = Agent::start(&[WEB]).await;
    let mut stream = UnixStream::connect(&agent.socket).await.unwrap();
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let literal = |name: &str, value: &str| [vec![0x40], text(name), text(value)].concat();
    let block = [
        vec![0x83, 0x86], // POST, http
        literal(":path", "/SpiffeWorkloadAPI/FetchWITSVID"),
        literal(":authority", "%2Frun%2Fweb.sock"),
        literal("te", "trailers"),
        literal("content-type", "application/grpc"),
    ]
    .concat();
    let frame = |kind: u8, flags: u8, stream: u8, content: &[u8]| {
        [&[0, 0, u8::try_from(content.len()).unwrap(), kind, flags, 0, 0, 0, stream][..], content].concat()
    };
    let sent = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[]), frame(1, 5, 1, &block)].concat();
    stream.write_all(&sent).await.unwrap();
    // The first frame of the stream is headers, and no RST_STREAM.
    let answer = async {
        loop {
            let mut header = [0; 9];
            stream.read_exact(&mut header).await.unwrap();
            let mut content = vec![0; usize::from(header[1]) << 8 | usize::from(header[2])];
            stream.read_exact(&mut content).await.unwrap();
            if header[8] == 1 {
                return header[3];
            }
        }
    };
    assert_eq!(tokio::time::timeout(SOON, answer).await.expect("an answer"), 1);
}

/// Waits until what stands in `live` is as it should be.
async fn until(live: &LiveIdentity, is_it: impl Fn(&LiveIdentity) -> bool) {
    let mut changes = live.subscribe();
    let changed = async {
        while !is_it(live) {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(SOON, changed).await.unwrap_or_else(|_| panic!("{live:?}"));
}

/// The other end: whatever the agent has is in force with who asks, and what it takes away is not.
#[tokio::test]
async fn a_process_that_takes_its_identity_from_the_socket_has_what_the_agent_has() {
    let mut agent = Agent::start(&[JOB, WEB]).await;
    let live = LiveIdentity::empty();
    let web: ServiceName = "prod/web".parse().unwrap();
    let provided = provide(Endpoint::Unix(agent.socket.clone()), web, live.clone()).await.unwrap();
    assert_eq!(live.id().unwrap().to_string(), WEB, "its own among several");
    until(&live, |live| live.load().bundle().is_some_and(|bundle| bundle.jwt().keys().len() == 1)).await;
    assert_eq!(live.load().bundle().unwrap().jwt(), agent.domain.bundle().jwt());
    assert!(live.fault().is_none());

    let serial = |live: &LiveIdentity| live.load().svid().map(|svid| svid.serial().to_owned());
    let before = serial(&live);
    let other = Domain::new("other.internal");
    let granted = Granted { svid: agent.domain.svid(WEB, SOON), hint: String::new() };
    let (bundle, federated) = (agent.domain.bundle(), vec![other.bundle()]);
    let grant = Grant { identities: vec![granted], bundle, federated };
    agent.fake.entitled.send_replace(Entitlement::Granted(Arc::new(grant)));
    until(&live, |live| serial(live) != before && live.load().federated().iter().count() == 1).await;
    assert_eq!(
        live.load().federated().get(&"other.internal".parse().unwrap()).unwrap().roots(),
        other.bundle().roots()
    );

    // Another root, and the certificate under it.
    agent.domain = Domain::new("acme.internal");
    agent.fake.entitled.send_replace(agent.domain.grants(&[WEB]));
    until(&live, |live| live.load().bundle().unwrap().roots() == agent.domain.bundle().roots()).await;
    assert!(live.load().federated().is_empty(), "what is absent was taken away");

    // What the control plane has told of itself is newer.
    let numbered = TrustBundle::clone(&agent.domain.bundle()).with_sequence(7);
    live.set_bundle(numbered);
    let before = serial(&live);
    agent.fake.entitled.send_replace(agent.domain.grants(&[WEB]));
    until(&live, |live| serial(live) != before).await;
    assert_eq!(live.load().bundle().unwrap().sequence(), 7);

    for nothing in [Entitlement::Nothing, agent.domain.grants(&[JOB])] {
        agent.fake.entitled.send_replace(nothing);
        until(&live, |live| live.load().svid().is_none()).await;
        assert!(matches!(live.fault(), Some(OwnFault::Missing)));
        agent.fake.entitled.send_replace(agent.domain.grants(&[WEB]));
        until(&live, |live| live.load().svid().is_some()).await; // by itself
    }
    drop(provided);
}

#[tokio::test]
async fn who_asks_before_there_is_an_identity_waits_for_it() {
    let agent = Agent::start(&[]).await;
    let live = LiveIdentity::empty();
    let endpoint = Endpoint::Unix(agent.socket.clone());
    let web: ServiceName = "prod/web".parse().unwrap();
    let waiting = tokio::spawn(provide(endpoint, web, live.clone()));
    while agent.fake.callers.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    agent.fake.entitled.send_replace(agent.domain.grants(&[WEB]));
    let provided = tokio::time::timeout(SOON, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(live.id().unwrap().to_string(), WEB);
    drop(provided);
}
