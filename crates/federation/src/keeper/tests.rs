use std::net::SocketAddr;

use tokio::net::TcpListener;
use weft_identity::ca::{Ca, KeyRequest, requested_key};
use weft_identity::{LiveIdentity, Names, Svid, TrustBundle, document};
use weft_model::intent::EndpointUrl;
use weft_model::{Span, SpiffeId};

use super::*;
use crate::endpoint::{Certificate, Endpoint};

const HOUR: Duration = Duration::from_secs(3600);

/// A trust domain with a bundle endpoint whose document can be another one than its own.
struct Foreign {
    ca: Ca,
    live: Arc<LiveIdentity>,
    served: watch::Sender<Arc<TrustBundle>>,
    address: SocketAddr,
    id: SpiffeId,
}

impl Foreign {
    async fn start(domain: &str) -> Self {
        let now = SystemTime::now();
        let domain: TrustDomain = domain.parse().expect("legal");
        let ca = Ca::root(&domain, now, HOUR).expect("a root");
        let id = SpiffeId::of_control_plane(&domain);
        let bundle = TrustBundle::new(domain, vec![ca.certificate().clone()]).expect("a bundle").with_sequence(5);
        let live = LiveIdentity::empty();
        live.set(svid(&ca, &id), bundle.clone());
        let served = watch::Sender::new(Arc::new(bundle));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let document = served.clone();
        let endpoint = Endpoint { bundle: Box::new(move || document.borrow().clone()), refresh_hint: 10 * AGAIN };
        endpoint.serve(listener, Certificate::Spiffe(live.clone())).expect("it serves");
        Self { ca, live, served, address, id }
    }

    fn bundle(&self) -> TrustBundle {
        (**self.served.borrow()).clone()
    }

    fn domain(&self, id: &SpiffeId) -> ForeignDomain {
        let span = Span { file: "x.yaml".into(), line: 1, column: 1 };
        let bundle = document::write(&self.bundle(), None).into();
        ForeignDomain {
            name: self.id.trust_domain(),
            endpoint: EndpointUrl { host: "127.0.0.1".into(), port: self.address.port(), path: "/".into() },
            profile: Profile::Spiffe { id: id.clone(), bundle: Some(bundle), span: span.clone() },
            services: Vec::new(),
            span,
        }
    }
}

fn svid(ca: &Ca, id: &SpiffeId) -> Svid {
    let now = SystemTime::now();
    let request = KeyRequest::new().expect("a key");
    let key = requested_key(&request.csr).expect("a key");
    let leaf = ca.leaf(&key, id, None, &Names::default(), now, now + HOUR).expect("a leaf");
    Svid::from_der(vec![leaf], &request.key).expect("an SVID")
}

fn keeper(folder: &std::path::Path) -> Arc<Keeper> {
    keeper_of(folder, Store::open(folder).expect("a store"))
}

/// Of `acme.internal`, whose bundle is empty.
fn keeper_of(folder: &std::path::Path, store: Store) -> Arc<Keeper> {
    let own = TrustBundle::new("acme.internal".parse().expect("legal"), Vec::new()).expect("an empty bundle");
    let own = Arc::new(own);
    Keeper::new(store, WebRoots::system(), Records::open(folder).expect("a log"), move || own.clone())
}

#[tokio::test]
async fn a_bundle_is_taken_from_the_right_endpoint_only_and_never_an_older_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let (west, keeper) = (Foreign::start("west.test").await, keeper(folder.path()));
    let domain = west.domain(&west.id);
    let taken = keeper.fetch_once(&domain).await.expect("a bundle");
    assert_eq!((taken.sequence, taken.refresh_hint), (Some(5), Some(Duration::from_secs(5))));

    let other = "spiffe://west.test/ns/prod/sa/web".parse().expect("legal");
    let wrong = keeper.fetch_once(&west.domain(&other)).await.expect_err("another identity");
    assert!(wrong.contains("expected was spiffe://west.test/ns/prod/sa/web"), "{wrong}");

    let east = Foreign::start("east.test").await;
    let elsewhere = ForeignDomain { endpoint: east.domain(&east.id).endpoint, ..west.domain(&west.id) };
    let wrong = keeper.fetch_once(&elsewhere).await.expect_err("another trust domain's endpoint");
    assert!(wrong.contains("another trust domain"), "{wrong}");
    west.served.send_replace(Arc::new(east.bundle().with_sequence(9)));
    let wrong = keeper.fetch_once(&domain).await.expect_err("another trust domain's document");
    assert!(wrong.contains("spiffe://east.test"), "{wrong}");

    // A root that says the right name, and that nobody has vouched for.
    let (name, now) = (west.id.trust_domain(), SystemTime::now());
    let thief = Ca::root(&name, now, HOUR).expect("a root");
    let real = (*west.live.load().svid().expect("an identity")).clone();
    let own = TrustBundle::new(name.clone(), vec![west.ca.certificate().clone()]).expect("a bundle");
    west.live.set(svid(&thief, &west.id), own.clone());
    west.served.send_replace(Arc::new(own.clone().with_sequence(9)));
    let wrong = keeper.fetch_once(&domain).await.expect_err("an unknown root");
    assert!(wrong.contains("was not issued under"), "{wrong}");

    // It is published first, and then it may sign: the newest bundle judges the endpoint.
    let both = TrustBundle::new(name, vec![west.ca.certificate().clone(), thief.certificate().clone()]);
    let both = both.expect("a bundle").with_sequence(10);
    west.live.set(Svid::from_der(real.chain().to_vec(), real.private_key_der()).expect("the SVID again"), own.clone());
    west.served.send_replace(Arc::new(both));
    assert_eq!(keeper.fetch_once(&domain).await.expect("a bundle").bundle.roots().len(), 2);
    west.live.set(svid(&thief, &west.id), own.clone());
    keeper.fetch_once(&domain).await.expect("a bundle");

    west.served.send_replace(Arc::new(own.with_sequence(9)));
    let older = keeper.fetch_once(&domain).await.expect_err("an older bundle");
    assert!(older.contains("spiffe_sequence is 9, and 10 is in force"), "{older}");
    let (_, kept) = keeper.present(&domain).await.expect("a store");
    assert_eq!(kept.and_then(|kept| kept.sequence), Some(10));
}

#[tokio::test]
async fn what_was_fetched_outlives_a_restart_and_what_is_removed_is_out_of_force() {
    let folder = tempfile::tempdir().expect("a folder");
    let west = Foreign::start("west.test").await;
    let domain = west.domain(&west.id);
    let name = domain.name.clone();
    west.served.send_replace(Arc::new(west.bundle().with_sequence(6)));
    let store = Store::open(folder.path()).expect("a store");
    let keeper = keeper_of(folder.path(), store.clone());
    let (tell, wanted) = watch::channel(Arc::new(Wanted::from([(name.clone(), domain.clone())])));
    let mut published = keeper.published();
    let running = tokio::spawn(keeper.clone().run(wanted));
    let sequence = |federated: &Arc<Federated>| federated.get(&name).map(|bundle| bundle.sequence());
    published.wait_for(|federated| sequence(federated) == Some(6)).await.expect("it runs");

    // Another server, or the next start, whose endpoint is away.
    let nobody = EndpointUrl { port: 1, ..domain.endpoint.clone() };
    let again = keeper_of(folder.path(), store.clone());
    assert_eq!(again.present(&domain).await.expect("a store").1.and_then(|kept| kept.sequence), Some(6));
    // What was fetched elsewhere does not count.
    let moved = ForeignDomain { endpoint: nobody, ..domain.clone() };
    assert_eq!(again.present(&moved).await.expect("a store").1.and_then(|kept| kept.sequence), Some(5));
    let failed = again.fetch_once(&moved).await.expect_err("nobody listens");
    assert!(failed.contains("cannot connect"), "{failed}");

    tell.send_replace(Arc::default());
    published.wait_for(|federated| federated.is_empty()).await.expect("it runs");
    assert!(keeper.states().is_empty() && store.list(FOLDER).await.expect("a store").is_empty());
    drop(tell);
    running.await.expect("it ends");
}

/// SPIFFE Federation s.5.2.2.2, s.5.2.2.4: the newest bundle of the endpoint's own trust domain judges it, and no other.
#[tokio::test]
async fn an_endpoint_of_a_third_trust_domain_is_judged_by_that_ones_bundle() {
    let folder = tempfile::tempdir().expect("a folder");
    let (hub, west, keeper) =
        (Foreign::start("hub.test").await, Foreign::start("west.test").await, keeper(folder.path()));
    // The hub serves the bundle of the west.
    let of_west = west.bundle();
    hub.served.send_replace(Arc::new(of_west.clone()));
    let mut domain = west.domain(&hub.id);
    domain.endpoint = hub.domain(&hub.id).endpoint;
    let Profile::Spiffe { bundle, .. } = &mut domain.profile else { panic!("it is") };
    *bundle = None;
    let none = keeper.fetch_once(&domain).await.expect_err("nobody has vouched for the hub");
    assert!(none.contains("there is no bundle of hub.test yet"), "{none}");
    let hubs = |ca: &Ca| TrustBundle::new(hub.id.trust_domain(), vec![ca.certificate().clone()]).expect("a bundle");
    let other = Ca::root(&hub.id.trust_domain(), SystemTime::now(), HOUR).expect("a root");
    keeper.set(Federated::new([hubs(&other), of_west]));
    let wrong = keeper.fetch_once(&domain).await.expect_err("another root of the hub");
    assert!(wrong.contains("was not issued under"), "{wrong}");
    keeper.set(Federated::new([hubs(&hub.ca)]));
    let taken = keeper.fetch_once(&domain).await.expect("a bundle");
    assert_eq!(taken.bundle.roots(), west.bundle().roots());
    let records = keeper.records.recent(10, |record| record.event == Event::BundleTaken);
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!(record.who, "spiffe://west.test");
    assert!(record.reason.starts_with("sequence 5, roots 1, JWT keys 0, from https://127.0.0.1:"), "{record:?}");
}

/// An HTTPS server that sends everybody elsewhere, and counts them.
struct Elsewhere {
    address: SocketAddr,
    to: watch::Sender<String>,
    asked: watch::Receiver<u32>,
}

impl Elsewhere {
    async fn start(config: Arc<rustls::ServerConfig>) -> Self {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (to, asked) = (watch::Sender::new(String::new()), watch::Sender::new(0));
        let (location, receiver) = (to.clone(), asked.subscribe());
        let acceptor = tokio_rustls::TlsAcceptor::from(config);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.expect("a request"));
                }
                asked.send_modify(|count| *count += 1);
                let location = location.borrow().clone();
                let answer = format!("HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.expect("written");
                let _ = stream.shutdown().await; // the client may be gone
            }
        });
        Self { address, to, asked: receiver }
    }

    fn url(&self, host: &str) -> EndpointUrl {
        EndpointUrl { host: host.into(), port: self.address.port(), path: "/".into() }
    }
}

/// SPIFFE Federation s.5.2.2.4.
#[tokio::test]
async fn a_redirect_is_followed_to_the_same_identity_each_time_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let (east, west, keeper) =
        (Foreign::start("east.test").await, Foreign::start("west.test").await, keeper(folder.path()));
    let elsewhere = Elsewhere::start(tls::public_server_config(west.live.clone())).await;
    let domain = ForeignDomain { endpoint: elsewhere.url("127.0.0.1"), ..west.domain(&west.id) };
    elsewhere.to.send_replace(west.domain(&west.id).endpoint.to_string());
    for times in 1..=2 {
        keeper.fetch_once(&domain).await.expect("a bundle");
        assert_eq!(*elsewhere.asked.borrow(), times, "it begins at the configured place");
    }
    let wrong = async |location: String| {
        elsewhere.to.send_replace(location);
        keeper.fetch_once(&domain).await.expect_err("refused")
    };
    let other = wrong(east.domain(&east.id).endpoint.to_string()).await;
    assert!(other.contains("another trust domain") && other.contains("where a redirect leads"), "{other}");
    let plain = wrong(format!("http://{}/", west.address)).await;
    assert!(plain.contains("its scheme is not https"), "{plain}");
    let before = *elsewhere.asked.borrow();
    let around = wrong("/again".to_owned()).await;
    assert!(around.contains("the 6th in a row"), "{around}");
    assert_eq!(*elsewhere.asked.borrow() - before, 6);
    let lost = wrong(String::new()).await;
    assert!(lost.contains("the 6th in a row"), "an empty one is the same place: {lost}");
}

/// SPIFFE Federation s.5.2.1.4.
#[tokio::test]
async fn a_redirect_of_https_web_is_followed_to_a_known_ca_and_an_unknown_one_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name);
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(file("cert.pem"), pair.cert.pem()).expect("written");
    std::fs::write(file("key.pem"), pair.signing_key.serialize_pem()).expect("written");
    let west = Foreign::start("west.test").await;
    let bundle = west.served.clone();
    let endpoint = Endpoint { bundle: Box::new(move || bundle.borrow().clone()), refresh_hint: AGAIN };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    endpoint.serve(listener, Certificate::Web { chain: file("cert.pem"), key: file("key.pem") }).expect("it serves");
    let key = rustls_pki_types::PrivateKeyDer::try_from(pair.signing_key.serialize_der()).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(tls::provider().clone())
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(vec![pair.cert.der().clone()], key));
    let elsewhere = Elsewhere::start(Arc::new(config.expect("a configuration"))).await;
    let roots = WebRoots::file(&file("cert.pem")).expect("a CA").judge();
    let get = async |by: &By| fetch(&elsewhere.url("localhost"), by).await.map_err(|error| error.to_string());

    elsewhere.to.send_replace(format!("https://localhost:{port}/"));
    let document = get(&roots).await.expect("a document");
    assert!(Document::read(&west.id.trust_domain(), &document).is_ok());
    let unknown = get(&WebRoots::system().judge()).await.expect_err("an unknown CA");
    assert!(unknown.contains("--federation-ca") && unknown.contains("https_spiffe"), "{unknown}");
    // The same demands there: its host, and its CA.
    elsewhere.to.send_replace(format!("https://127.0.0.1:{port}/"));
    let host = get(&roots).await.expect_err("another host");
    assert!(host.contains("not valid for name") && host.contains("where a redirect leads"), "{host}");
    elsewhere.to.send_replace(format!("https://localhost:{}/", west.address.port()));
    let svid = get(&roots).await.expect_err("an X.509-SVID");
    assert!(svid.contains("--federation-ca"), "{svid}");
}

#[tokio::test]
async fn each_reason_of_a_refusal_is_recorded_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let (west, keeper) = (Foreign::start("west.test").await, keeper(folder.path()));
    let mut domain = west.domain(&west.id);
    domain.endpoint.port = 1;
    let (_tell, wanted) = watch::channel(Arc::new(Wanted::from([(domain.name.clone(), domain)])));
    let running = tokio::spawn(keeper.clone().run(wanted));
    // The second try is a second later.
    let tried = async {
        while keeper.states().values().all(|state| state.failures < 2) {
            tokio::time::sleep(AGAIN / 10).await;
        }
    };
    tokio::time::timeout(HOUR / 120, tried).await.expect("two failures");
    running.abort();
    let records = keeper.records.recent(10, |_| true);
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!((record.event, record.asked), (Event::Refused, Some(Event::BundleTaken)));
    assert!(record.who == "spiffe://west.test" && record.reason.contains("cannot connect"), "{record:?}");
}
