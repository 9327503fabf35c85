//! The client's end of the API, against servers that say whatever a test wants, also what ours never would.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::net::UnixListener;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};
use weft_identity::ca::{Ca, KeyRequest, requested_key};
use weft_identity::{JwtKey, JwtSigner, LiveIdentity, Names, TrustBundle};
use weft_model::ServiceName;
use weft_workload_api::Endpoint;
use weft_workload_api::client::{Provided, provide};
use weft_workload_api::proto::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use weft_workload_api::proto::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse,
};

const SOON: Duration = Duration::from_secs(20);
const WEB: &str = "spiffe://acme.internal/ns/prod/sa/web";
const JOB: &str = "spiffe://acme.internal/ns/prod/sa/job";

type Told<M> = Result<M, Status>;
type Messages<M> = ReceiverStream<Told<M>>;

/// Each call of a stream is answered by the next script: what to say, after which the stream stays open or, on a status, ends.
#[derive(Default)]
struct Script {
    x509: Mutex<Vec<mpsc::Receiver<Told<X509svidResponse>>>>,
    jwt: Mutex<Vec<mpsc::Receiver<Told<JwtBundlesResponse>>>>,
    /// Of each call: its name, and its security headers.
    calls: Mutex<Vec<(&'static str, Vec<String>)>>,
    called: Notify,
}

impl Script {
    fn note<T>(&self, call: &'static str, request: &Request<T>) {
        let headers = request.metadata().get_all("workload.spiffe.io").iter();
        let headers = headers.map(|value| value.to_str().unwrap().to_owned()).collect();
        self.calls.lock().unwrap().push((call, headers));
        self.called.notify_waiters();
    }

    fn count(&self, call: &str) -> usize {
        self.calls.lock().unwrap().iter().filter(|(name, _)| *name == call).count()
    }

    async fn until_called(&self, call: &str, times: usize) {
        let called = async {
            loop {
                let next = self.called.notified();
                if self.count(call) >= times {
                    return;
                }
                next.await;
            }
        };
        tokio::time::timeout(SOON, called).await.unwrap_or_else(|_| panic!("{call} {times} times"));
    }
}

/// The next script; without one the stream says nothing, and stays open.
async fn next<M>(scripts: &Mutex<Vec<mpsc::Receiver<Told<M>>>>) -> Result<Response<Messages<M>>, Status> {
    let script = {
        let mut scripts = scripts.lock().unwrap();
        (!scripts.is_empty()).then(|| scripts.remove(0))
    };
    match script {
        Some(script) => Ok(Response::new(ReceiverStream::new(script))),
        None => std::future::pending().await,
    }
}

struct Fake(Arc<Script>);

#[tonic::async_trait]
impl SpiffeWorkloadApi for Fake {
    type FetchX509SVIDStream = Messages<X509svidResponse>;
    type FetchX509BundlesStream = Messages<X509BundlesResponse>;
    type FetchJWTBundlesStream = Messages<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.0.note("x509", &request);
        next(&self.0.x509).await
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        self.0.note("jwt", &request);
        next(&self.0.jwt).await
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn fetch_jwtsvid(&self, _: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }
}

/// A server on a socket, what it has, and whose identity somebody takes from it.
struct Test {
    script: Arc<Script>,
    endpoint: Endpoint,
    live: Arc<LiveIdentity>,
    root: Ca,
    signer: JwtSigner,
    _folder: tempfile::TempDir,
}

impl Test {
    async fn start() -> Self {
        let (script, folder) = (Arc::<Script>::default(), tempfile::tempdir().unwrap());
        let path = folder.path().join("w.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (sender, connections) = mpsc::channel(8);
        tokio::spawn(
            async move { while sender.send(listener.accept().await.map(|(stream, _)| stream)).await.is_ok() {} },
        );
        let service = SpiffeWorkloadApiServer::new(Fake(script.clone()));
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(ReceiverStream::new(connections)));
        let endpoint = Endpoint::Unix(path);
        let root = Ca::root(&"acme.internal".parse().unwrap(), SystemTime::now(), SOON * 100).unwrap();
        let signer = JwtSigner::from_pkcs8(&JwtSigner::make().unwrap()).unwrap();
        Self { script, endpoint, live: LiveIdentity::empty(), root, signer, _folder: folder }
    }

    fn x509(&self) -> mpsc::Sender<Told<X509svidResponse>> {
        let (sender, receiver) = mpsc::channel(8);
        self.script.x509.lock().unwrap().push(receiver);
        sender
    }

    fn jwt(&self) -> mpsc::Sender<Told<JwtBundlesResponse>> {
        let (sender, receiver) = mpsc::channel(8);
        self.script.jwt.lock().unwrap().push(receiver);
        sender
    }

    async fn provide(&self) -> Result<Provided, Status> {
        let web: ServiceName = "prod/web".parse().unwrap();
        tokio::time::timeout(SOON, provide(self.endpoint.clone(), web, self.live.clone())).await.expect("an end")
    }

    /// Another certificate each time.
    fn svid(&self, id: &str) -> X509svid {
        let (request, now) = (KeyRequest::new().unwrap(), SystemTime::now());
        let key = requested_key(&request.csr).unwrap();
        let leaf = self.root.leaf(&key, &id.parse().unwrap(), None, &Names::default(), now, now + SOON).unwrap();
        X509svid {
            spiffe_id: id.to_owned(),
            x509_svid: leaf.to_vec(),
            x509_svid_key: request.key.to_vec(),
            bundle: self.root.certificate().to_vec(),
            hint: String::new(),
        }
    }

    /// The set of a trust domain's keys for tokens.
    fn keys(&self) -> JwtBundlesResponse {
        let key = JwtKey::from_spki(&self.signer.kid(), self.signer.spki().to_vec()).unwrap();
        let bundle = TrustBundle::new("acme.internal".parse().unwrap(), Vec::new()).unwrap();
        let jwks = bundle.with_jwt_keys(vec![key]).unwrap().jwt().jwks().into_bytes();
        JwtBundlesResponse { bundles: HashMap::from([("spiffe://acme.internal".to_owned(), jwks)]) }
    }

    async fn until(&self, what: &str, is_it: impl Fn(&LiveIdentity) -> bool) {
        let mut changes = self.live.subscribe();
        let changed = async {
            while !is_it(&self.live) {
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(SOON, changed).await.unwrap_or_else(|_| panic!("{what}: {:?}", self.live));
    }

    fn serial(&self) -> Option<String> {
        self.live.load().svid().map(|svid| svid.serial().to_owned())
    }

    fn jwt_keys(&self) -> usize {
        self.live.load().bundle().map_or(0, |bundle| bundle.jwt().keys().len())
    }
}

fn whole(svids: Vec<X509svid>) -> Told<X509svidResponse> {
    Ok(X509svidResponse { svids, ..Default::default() })
}

#[tokio::test]
async fn each_call_has_the_security_header() {
    let test = Test::start().await;
    let x509 = test.x509();
    x509.send(whole(vec![test.svid(WEB)])).await.unwrap();
    let provided = test.provide().await.unwrap();
    test.script.until_called("jwt", 1).await;
    let calls = test.script.calls.lock().unwrap().clone();
    assert_eq!(calls, [("x509", vec!["true".to_owned()]), ("jwt", vec!["true".to_owned()])]);
    drop(provided);
}

#[tokio::test]
async fn what_a_message_lacks_is_forgotten() {
    let test = Test::start().await;
    let (x509, jwt) = (test.x509(), test.jwt());
    let other = Ca::root(&"other.test".parse().unwrap(), SystemTime::now(), SOON).unwrap();
    let federated_bundles = HashMap::from([("spiffe://other.test".to_owned(), other.certificate().to_vec())]);
    x509.send(Ok(X509svidResponse { svids: vec![test.svid(WEB)], crl: Vec::new(), federated_bundles })).await.unwrap();
    let provided = test.provide().await.unwrap();
    assert_eq!(test.live.load().federated().iter().count(), 1);
    jwt.send(Ok(test.keys())).await.unwrap();
    test.until("keys for tokens", |_| test.jwt_keys() == 1).await;

    // The bundle of another trust domain, and all keys of the own: absent is taken away.
    x509.send(whole(vec![test.svid(WEB)])).await.unwrap();
    test.until("the other trust domain to be forgotten", |live| live.load().federated().is_empty()).await;
    assert_eq!(test.jwt_keys(), 1, "what another stream has said stays");
    let jwks = br#"{"keys": []}"#.to_vec();
    let nobody = HashMap::from([("spiffe://acme.internal".to_owned(), jwks)]);
    jwt.send(Ok(JwtBundlesResponse { bundles: nobody })).await.unwrap();
    test.until("the keys to be forgotten", |_| test.jwt_keys() == 0).await;
    drop(provided);
}

#[tokio::test]
async fn a_message_without_a_mandatory_field_changes_nothing() {
    let test = Test::start().await;
    let mut x509 = test.x509();
    x509.send(whole(vec![test.svid(WEB)])).await.unwrap();
    let provided = test.provide().await.unwrap();
    let before = test.serial();
    let spoilt: [fn(&mut X509svid); 4] = [
        |svid| svid.spiffe_id.clear(),
        |svid| svid.x509_svid.clear(),
        |svid| svid.x509_svid_key.clear(),
        |svid| svid.bundle.clear(),
    ];
    let mut messages = vec![whole(Vec::new())];
    for spoil in spoilt {
        let mut svid = test.svid(WEB);
        spoil(&mut svid);
        messages.push(whole(vec![svid.clone()]));
        messages.push(whole(vec![test.svid(WEB), svid]));
    }
    let changes = test.live.subscribe();
    for (times, message) in messages.into_iter().enumerate() {
        let next = test.x509();
        x509.send(message).await.unwrap();
        // It drops the message, and asks again.
        test.script.until_called("x509", times + 2).await;
        assert_eq!(test.serial(), before);
        x509 = next;
    }
    assert!(!changes.has_changed().unwrap(), "nothing was put in force");
    x509.send(whole(vec![test.svid(WEB)])).await.unwrap();
    test.until("a good one to count", |_| test.serial() != before).await;
    drop(provided);
}

/// Whose identity it takes is said by its ID: hints that are missing, unknown or twice there change nothing.
#[tokio::test]
async fn hints_change_nothing_and_of_two_with_one_the_first_counts() {
    let test = Test::start().await;
    let x509 = test.x509();
    let hinted = |id: &str, hint: &str| X509svid { hint: hint.to_owned(), ..test.svid(id) };
    let first = hinted(WEB, "same");
    let serial = weft_identity::certificate::serial_of(&first.x509_svid.clone().into()).unwrap();
    let message = vec![hinted(JOB, "prod/web"), first, hinted(WEB, "same"), hinted(JOB, &"x".repeat(5000))];
    x509.send(whole(message)).await.unwrap();
    let provided = test.provide().await.unwrap();
    assert_eq!((test.live.id().unwrap().to_string(), test.serial()), (WEB.to_owned(), Some(serial)));
    drop(provided);
}

#[tokio::test]
async fn a_client_gives_up_on_what_cannot_help_and_tries_on_after_the_rest() {
    for hopeless in [Code::InvalidArgument, Code::Unimplemented] {
        let test = Test::start().await;
        test.x509().send(Err(Status::new(hopeless, "no"))).await.unwrap();
        let told = test.provide().await.expect_err("it is of no use");
        assert_eq!((told.code(), test.script.count("x509")), (hopeless, 1));
    }
    let test = Test::start().await;
    for again in [Code::Unavailable, Code::PermissionDenied, Code::Internal] {
        test.x509().send(Err(Status::new(again, "not now"))).await.unwrap();
    }
    let x509 = test.x509();
    x509.send(whole(vec![test.svid(WEB)])).await.unwrap();
    let provided = test.provide().await.unwrap();
    assert_eq!(test.script.count("x509"), 4);
    // What is only away takes nothing; what is taken away is used no more.
    let next = test.x509();
    let last = test.x509();
    x509.send(Err(Status::unavailable("an agent that is started again"))).await.unwrap();
    test.script.until_called("x509", 5).await;
    assert!(test.live.load().svid().is_some());
    next.send(Err(Status::permission_denied("no identity issued"))).await.unwrap();
    test.until("it to be gone", |live| live.load().svid().is_none()).await;
    last.send(whole(vec![test.svid(WEB)])).await.unwrap();
    test.until("it to be back", |live| live.load().svid().is_some()).await;
    drop(provided);
}

/// The stream of keys for tokens is kept open by itself, beside that of certificates.
#[tokio::test]
async fn a_stream_of_keys_that_ends_is_opened_again_and_one_that_is_not_there_is_not() {
    let test = Test::start().await;
    let x509 = test.x509();
    x509.send(whole(vec![test.svid(WEB)])).await.unwrap();
    let (first, second) = (test.jwt(), test.jwt());
    first.send(Err(Status::unavailable("starting"))).await.unwrap();
    second.send(Ok(JwtBundlesResponse::default())).await.unwrap(); // a mandatory field has its default: it does not count
    second.send(Ok(test.keys())).await.unwrap();
    let provided = test.provide().await.unwrap();
    test.until("keys for tokens", |_| test.jwt_keys() == 1).await;
    let third = test.jwt();
    drop(second);
    test.script.until_called("jwt", 3).await;
    assert_eq!(test.jwt_keys(), 1, "until the next message");
    third.send(Err(Status::unimplemented("no JWT-SVIDs here"))).await.unwrap();
    // Certificates still come, and nobody asks for keys any more.
    let before = test.serial();
    third.closed().await;
    x509.send(whole(vec![test.svid(WEB)])).await.unwrap();
    test.until("another certificate", |_| test.serial() != before).await;
    assert_eq!((test.script.count("jwt"), test.script.count("x509")), (3, 1));
    drop(provided);
}
