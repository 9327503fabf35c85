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
            profile: Profile::Spiffe { id: id.clone(), bundle, span: span.clone() },
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
    Keeper::new(Store::open(folder).expect("a store"), WebRoots::system())
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
    let keeper = Keeper::new(store.clone(), WebRoots::system());
    let (tell, wanted) = watch::channel(Arc::new(Wanted::from([(name.clone(), domain.clone())])));
    let mut published = keeper.published();
    let running = tokio::spawn(keeper.clone().run(wanted));
    let sequence = |federated: &Arc<Federated>| federated.get(&name).map(|bundle| bundle.sequence());
    published.wait_for(|federated| sequence(federated) == Some(6)).await.expect("it runs");

    // Another server, or the next start, whose endpoint is away.
    let nobody = EndpointUrl { port: 1, ..domain.endpoint.clone() };
    let again = Keeper::new(store.clone(), WebRoots::system());
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
