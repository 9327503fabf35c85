//! A workload's identity from the join token to the rotation, over real connections.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::{HOUR, Intent, SOON, Server, echo, id, service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use weft_authority::{Authority, Lives};
use weft_identity::client::attest;
use weft_identity::proto::identity_client::IdentityClient;
use weft_identity::tls::Culprit;
use weft_identity::{
    ClientAuth, Identity, IdentityConfig, IdentityError, JoinToken, LiveIdentity, OwnFault, PeerMatch, Proof, connect,
    proto, sds, tls,
};
use weft_store::Store;
use weft_xds::type_url;

fn intent(services: &[(&str, Duration)]) -> Arc<Intent> {
    let intent = Arc::new(Intent::default());
    for (name, ttl) in services {
        intent.set(name, Some(*ttl));
    }
    intent
}

fn config(server: &Server, name: &str, token: Option<JoinToken>) -> IdentityConfig {
    IdentityConfig {
        server: server.address.to_string(),
        subject: service(name).into(),
        node_id: format!("{name}~1"),
        proof: token.map(Proof::Token),
        state_dir: server.folder.join("state").join(name),
    }
}

async fn dial(address: std::net::SocketAddr, identity: &Arc<LiveIdentity>) -> std::io::Result<TlsStream<TcpStream>> {
    let expected = PeerMatch::TrustDomain(common::DOMAIN.parse().unwrap());
    let connector = TlsConnector::from(tls::client_config(identity.clone(), expected, &[]));
    connector.connect("board.prod".try_into().unwrap(), TcpStream::connect(address).await?).await
}

async fn say(stream: &mut TlsStream<TcpStream>, text: &str) -> std::io::Result<()> {
    stream.write_all(text.as_bytes()).await?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer).await?;
    assert_eq!(answer, text.as_bytes());
    Ok(())
}

fn serial_of_peer(stream: &TlsStream<TcpStream>) -> String {
    let chain = stream.get_ref().1.peer_certificates().unwrap();
    let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
    leaf.raw_serial_as_string().replace(':', "").to_uppercase()
}

#[tokio::test]
async fn a_join_token_becomes_an_identity_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &intent(&[("prod/board", HOUR)])).await;
    let token = server.token("prod/board").await;
    let identity = Identity::start(config(&server, "prod/board", Some(token.clone()))).await.unwrap();
    assert_eq!(identity.live().id(), Some(id("prod/board")));
    let withdrawn = identity.withdraw("prod/board~1").await.unwrap();
    assert_eq!((withdrawn.acknowledged, withdrawn.waiting), (2, 1));
    assert!(identity.withdraw("prod/web~1").await.unwrap_err().to_string().contains("is not spiffe://"));

    let again = attest(&server.address.to_string(), &service("prod/board"), &token).await.unwrap_err().to_string();
    assert!(again.contains("was used") && again.contains("by another key"), "{again}");

    // A restart uses what was saved, with the used token, without one, and while the server is away.
    let serial = identity.live().load().svid().unwrap().serial().to_owned();
    drop(identity);
    let again = config(&server, "prod/board", Some(token));
    let alone = IdentityConfig { proof: None, ..again.clone() };
    let identity = Identity::start(again).await.unwrap();
    assert_eq!(identity.live().load().svid().unwrap().serial(), serial);
    server.stop().await;
    let identity = Identity::start(alone).await.unwrap();
    assert_eq!(identity.live().load().svid().unwrap().serial(), serial);
}

#[tokio::test]
async fn of_many_that_come_with_one_token_one_gets_in() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &intent(&[("prod/board", HOUR)])).await;
    let token = server.token("prod/board").await;
    let mut attempts = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (address, token) = (server.address.to_string(), token.clone());
        attempts.spawn(async move { attest(&address, &service("prod/board"), &token).await });
    }
    assert_eq!(attempts.join_all().await.into_iter().filter(Result::is_ok).count(), 1);
    server.stop().await;
}

#[tokio::test]
async fn who_is_refused_is_told_why() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &intent(&[("prod/board", HOUR), ("weft/server", HOUR)])).await;
    let address = server.address.to_string();
    let board = server.token("prod/board").await;
    let refused = |name: &'static str, token: JoinToken| {
        let address = address.clone();
        async move { attest(&address, &service(name), &token).await.unwrap_err().to_string() }
    };
    let error = refused("prod/web", board.clone()).await;
    assert!(error.contains("no service prod/web in the mesh's intent"), "{error}");
    server.intent.set("prod/web", Some(HOUR));
    let error = refused("prod/web", board.clone()).await;
    assert!(error.contains("the join token is for prod/board, not for prod/web"), "{error}");
    let error = refused("weft/server", server.token("weft/server").await).await;
    assert!(error.contains("the control plane itself"), "{error}");
    attest(&address, &service("prod/board"), &board).await.expect("refusals have not used the token up");

    let other_folder = tempfile::tempdir().unwrap();
    let other = Server::start(other_folder.path(), &intent(&[("prod/board", HOUR)])).await;
    let error = refused("prod/board", other.token("prod/board").await).await;
    assert!(error.contains("not of the mesh that this join token is for"), "{error}");
    assert!(!error.contains("malformed"), "{error}");

    let no_token = Identity::start(config(&server, "prod/web", None)).await.unwrap_err();
    assert!(matches!(no_token, IdentityError::NoJoinToken { .. }), "{no_token}");
    other.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn calls_that_need_an_identity_are_refused_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &intent(&[("prod/board", HOUR)])).await;
    let channel = connect(&server.address.to_string(), &server.identity("prod/board")).await.unwrap();
    let mut client = IdentityClient::new(channel);
    let withdraw = |node: &str| proto::WithdrawRequest { node_id: node.into() };
    let done = client.withdraw(withdraw("prod/board~1")).await.unwrap().into_inner();
    assert_eq!((done.acknowledged, done.waiting), (2, 1));
    assert_eq!(client.withdraw(withdraw("prod/web~1")).await.unwrap_err().code(), tonic::Code::PermissionDenied);
    let report = proto::PlainTextReport { forgotten: 1, ..Default::default() };
    client.report_plain_text(report.clone()).await.unwrap();
    assert_eq!(*server.intent.plain_text.lock().unwrap(), [(id("prod/board"), report)]);
    let held = || tokio_stream::once(proto::Held::default());
    let mut news = client.follow(held()).await.unwrap().into_inner();
    assert_eq!(news.message().await.unwrap().unwrap().bundle.unwrap().trust_domain, common::DOMAIN);

    let gone = connect(&server.address.to_string(), &server.identity("prod/gone")).await.unwrap();
    let error = IdentityClient::new(gone).renew(proto::RenewRequest::default()).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument);

    // Anonymous: TLS lets it in (it may attest), the calls do not.
    let channel = anonymous(server.address).await;
    let mut client = IdentityClient::new(channel);
    let code = |status: tonic::Status| status.code();
    assert_eq!(
        client.report_plain_text(proto::PlainTextReport::default()).await.map_err(code).unwrap_err(),
        tonic::Code::Unauthenticated
    );
    assert_eq!(
        client.renew(proto::RenewRequest::default()).await.map_err(code).unwrap_err(),
        tonic::Code::Unauthenticated
    );
    assert_eq!(
        client.withdraw(withdraw("prod/board~1")).await.map_err(code).unwrap_err(),
        tonic::Code::Unauthenticated
    );
    let follow = client.follow(held()).await;
    assert_eq!(follow.map(drop).map_err(code).unwrap_err(), tonic::Code::Unauthenticated);
    server.stop().await;
}

/// A connection without a client certificate.
async fn anonymous(address: std::net::SocketAddr) -> tonic::transport::Channel {
    let mut config = rustls_client_without_certificate();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    tonic::transport::Endpoint::from_static("http://server")
        .connect_with_connector(tower::service_fn(move |_| {
            let connector = connector.clone();
            async move {
                let stream = TcpStream::connect(address).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(
                    connector.connect("localhost".try_into().unwrap(), stream).await?,
                ))
            }
        }))
        .await
        .unwrap()
}

fn rustls_client_without_certificate() -> rustls::ClientConfig {
    #[derive(Debug)]
    struct Anyone;
    impl rustls::client::danger::ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &[rustls::pki_types::CertificateDer<'_>],
            _: &rustls::pki_types::ServerName<'_>,
            _: &[u8],
            _: rustls::pki_types::UnixTime,
        ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
            Ok(rustls::client::danger::ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            unreachable!()
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            tls::provider().signature_verification_algorithms.supported_schemes()
        }
    }
    rustls::ClientConfig::builder_with_provider(tls::provider().clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth()
}

#[tokio::test]
async fn a_short_lived_identity_rotates_by_itself_and_connections_live_on() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &intent(&[("prod/board", Duration::from_secs(3))])).await;
    let token = server.token("prod/board").await;
    let board = Identity::start(config(&server, "prod/board", Some(token))).await.unwrap();
    let web = server.identity("prod/web");
    let (address, _) = echo(board.live().clone(), ClientAuth::Required).await;

    let mut old = dial(address, &web).await.unwrap();
    let first = serial_of_peer(&old);
    assert_eq!(first, board.live().load().svid().unwrap().serial());
    let mut status = board.status();
    let rotated = tokio::time::timeout(SOON, status.wait_for(|status| status.renewals >= 2)).await;
    assert_eq!(rotated.unwrap().unwrap().failures, 0);
    let issued = server.intent.issued.lock().unwrap().clone();
    assert!(issued.len() >= 3, "{issued:?}");
    assert!(issued.iter().all(|(id, node, _)| *id == self::id("prod/board") && node == "prod/board~1"), "{issued:?}");
    assert!(issued.is_sorted_by(|a, b| a.2 < b.2), "each ends later: {issued:?}");

    let new = dial(address, &web).await.unwrap();
    assert_ne!(serial_of_peer(&new), first);
    say(&mut old, "still here\n").await.unwrap();
    let saved = std::fs::read_to_string(folder.path().join("state/prod/board/identity.json")).unwrap();
    assert!(saved.contains("issued_at"));
    server.stop().await;
}

#[tokio::test]
async fn a_renewed_identity_that_could_not_be_saved_is_saved_when_it_can_be() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &intent(&[("prod/board", Duration::from_secs(10))])).await;
    let config = config(&server, "prod/board", Some(server.token("prod/board").await));
    let file = config.state_dir.join("identity.json");
    let identity = Identity::start(config.clone()).await.unwrap();
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir(&file).unwrap();
    let mut status = identity.status();
    tokio::time::timeout(SOON, status.wait_for(|status| status.renewals == 1)).await.unwrap().unwrap();
    assert!(file.is_dir());
    std::fs::remove_dir(&file).unwrap();
    let saved = async {
        while !file.is_file() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, saved).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn an_identity_outlives_a_server_that_is_away_until_it_expires_and_then_nothing_works() {
    let folder = tempfile::tempdir().unwrap();
    let intent = intent(&[("prod/board", Duration::from_secs(5))]);
    let server = Server::start(folder.path(), &intent).await;
    let token = server.token("prod/board").await;
    let board = Identity::start(config(&server, "prod/board", Some(token))).await.unwrap();
    let web = server.identity("prod/web");
    let (to_web, _) = echo(web.clone(), ClientAuth::Required).await;
    let (to_board, _) = echo(board.live().clone(), ClientAuth::Required).await;
    let (address, not_after) = (server.address, board.live().load().svid().unwrap().not_after());
    server.stop().await;

    let mut status = board.status();
    tokio::time::timeout(SOON, status.wait_for(|status| status.failures >= 2)).await.unwrap().unwrap();
    assert!(status.borrow().last_error.as_ref().unwrap().contains("cannot connect"), "{status:?}");
    assert!(SystemTime::now() < not_after);
    say(&mut dial(to_web, board.live()).await.unwrap(), "while it is valid\n").await.unwrap();

    let expired = || board.live().load().svid().unwrap().not_after() + Duration::from_secs(1) < SystemTime::now();
    tokio::time::timeout(SOON, status.wait_for(|_| expired())).await.unwrap().unwrap();
    let error = tls::explain(&dial(to_web, board.live()).await.unwrap_err());
    assert!(error.contains("own certificate expired"), "{error}");
    assert!(
        matches!(board.live().fault(), Some(OwnFault::Expired { id, .. }) if id == self::id("prod/board")),
        "it is known"
    );
    // An expired server takes nobody, and its clients learn why.
    let error = dial(to_board, &web).await.unwrap_err();
    assert_eq!(tls::culprit(&error), Culprit::PeerExpired);
    assert!(tls::explain(&error).starts_with("the peer's certificate expired "), "{}", tls::explain(&error));

    // Back again: the present certificate is no use, but the machine is known by its key.
    let server = Server::start_on(folder.path(), &intent, address).await;
    let usable = async {
        board.live().unexpired().await;
        say(&mut dial(to_board, &server.identity("prod/web")).await.unwrap(), "again\n").await.unwrap();
    };
    tokio::time::timeout(SOON, usable).await.unwrap();
    let leaf = board.live().load().svid().unwrap().chain()[0].clone();
    let machine = weft_identity::certificate::machine_of(&leaf).unwrap().expect("it says which machine it is");
    assert_eq!(machine.len(), 16, "{machine}");
    server.stop().await;
}

/// Waits until nothing is left of a certificate's life.
async fn over(ends: SystemTime) {
    let over = async {
        while SystemTime::now() <= ends + Duration::from_secs(1) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(SOON, over).await.unwrap();
}

/// A server whose service has had an identity that has run out, and what is left of it.
async fn worn_out(folder: &std::path::Path) -> (Server, IdentityConfig) {
    let server = Server::start(folder, &intent(&[("prod/board", Duration::from_secs(2))])).await;
    let mut config = config(&server, "prod/board", Some(server.token("prod/board").await));
    let board = Identity::start(config.clone()).await.unwrap();
    let ends = board.live().load().svid().unwrap().not_after();
    drop(board);
    config.proof = None;
    over(ends).await;
    (server, config)
}

#[tokio::test]
async fn a_machine_that_slept_comes_back_without_a_token_and_so_does_one_whose_token_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let (server, mut config) = worn_out(folder.path()).await;
    let board = Identity::start(config.clone()).await.unwrap();
    assert_eq!(board.live().id(), Some(id("prod/board")));
    let ends = board.live().load().svid().unwrap().not_after();
    drop(board);
    over(ends).await;
    let token = server.token("prod/board").await;
    config.proof = Some(Proof::Token(token.clone()));
    assert!(Identity::start(config.clone()).await.is_ok(), "the token is not needed, and not used");
    assert!(attest(&config.server, &service("prod/board"), &token).await.is_ok());
    server.stop().await;
}

#[tokio::test]
async fn a_machine_without_an_enrolled_key_needs_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let (server, mut config) = worn_out(folder.path()).await;
    std::fs::remove_file(config.state_dir.join("machine.key")).unwrap();
    let error = Identity::start(config.clone()).await.unwrap_err();
    assert!(matches!(error, IdentityError::NoJoinToken { .. }), "{error}");
    weft_identity::machine::MachineKey::open(&config.state_dir).unwrap();
    let error = Identity::start(config.clone()).await.unwrap_err().to_string();
    assert!(error.contains("is not enrolled here"), "{error}");
    let token = server.token("prod/board").await;
    config.proof = Some(Proof::Token(token.clone()));
    assert!(Identity::start(config).await.is_ok());
    server.stop().await;
}

#[tokio::test]
async fn a_machine_is_for_one_service_and_its_signature_for_one_connection() {
    let folder = tempfile::tempdir().unwrap();
    let (server, config) = worn_out(folder.path()).await;
    server.intent.set("prod/web", Some(HOUR));
    let machine = weft_identity::machine::MachineKey::load(&config.state_dir).unwrap().unwrap();
    let mut client = IdentityClient::new(anonymous(server.address).await);
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
    let ask = |machine: Option<proto::Machine>| proto::AttestRequest {
        service: "prod/board".into(),
        csr: csr.clone(),
        machine,
        ..Default::default()
    };
    let recorded = machine.sign(&[7; 32], &service("prod/board").into(), &csr).unwrap(); // for another connection than this one
    let error = client.attest(ask(Some(recorded))).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unauthenticated);
    assert!(error.message().contains("another connection"), "{error}");
    assert_eq!(client.attest(ask(None)).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    // Another service with this machine's key, and a token of its own.
    let token = Some(server.token("prod/web").await);
    let other =
        IdentityConfig { subject: service("prod/web").into(), proof: token.map(Proof::Token), ..config.clone() };
    let error = Identity::start(other).await.unwrap_err().to_string();
    assert!(error.contains("is enrolled for prod/board, not for prod/web"), "{error}");
    server.stop().await;
}

#[tokio::test]
async fn a_service_that_left_the_intent_is_not_renewed() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &intent(&[("prod/board", Duration::from_secs(3))])).await;
    let token = server.token("prod/board").await;
    let board = Identity::start(config(&server, "prod/board", Some(token))).await.unwrap();
    server.intent.set("prod/board", None);
    let mut status = board.status();
    let refused =
        tokio::time::timeout(SOON, status.wait_for(|status| status.failures > 0)).await.unwrap().unwrap().clone();
    assert!(refused.last_error.unwrap().contains("no service prod/board"), "the reason is kept");
    server.intent.set("prod/board", Some(HOUR));
    tokio::time::timeout(SOON, status.wait_for(|status| status.renewals > 0)).await.unwrap().unwrap();
    server.stop().await;
}

#[tokio::test]
async fn attestation_waits_for_a_server_that_is_not_up_yet() {
    let folder = tempfile::tempdir().unwrap();
    let intent = intent(&[("prod/board", HOUR)]);
    let server = Server::start(folder.path(), &intent).await;
    let (address, token) = (server.address, server.token("prod/board").await);
    let config = config(&server, "prod/board", Some(token));
    server.stop().await;
    let waiting = tokio::spawn(Identity::start(config));
    let server = Server::start_on(folder.path(), &intent, address).await;
    let identity = tokio::time::timeout(SOON, waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(identity.live().id(), Some(id("prod/board")));
    server.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_the_ca_and_another_mesh_is_told_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let open = |domain: &str| {
        let store = Store::open(folder.path()).unwrap();
        Authority::open(store, domain.parse().unwrap(), "self", Lives::default(), SystemTime::now())
    };
    let first = open("acme.internal").await.unwrap();
    let (pin, roots) = (first.pin(), first.bundle().roots().to_vec());
    let issuing = common::issue(&first, "prod/board", HOUR, SystemTime::now()).chain()[1].clone();
    drop(first);
    let second = open("acme.internal").await.unwrap();
    assert_eq!((second.pin(), second.bundle().roots()), (pin, &roots[..]));
    assert_eq!(common::issue(&second, "prod/board", HOUR, SystemTime::now()).chain()[1], issuing);
    drop(second);
    let error = open("other.test").await.map(drop).unwrap_err().to_string();
    assert!(error.contains("other.test") && error.contains("trustDomain"), "{error}");

    // Neither private key stands in the clear in any file.
    let store = Store::open(folder.path()).unwrap();
    let root = store.list("ca/x509/").await.unwrap()[0].0.clone();
    let keys =
        [store.get_sealed(&root).await.unwrap().unwrap(), store.get_sealed("ca/issuing/self").await.unwrap().unwrap()];
    drop(store);
    let file = std::fs::read(folder.path().join("weft.redb")).unwrap();
    for key in keys {
        let secret = &key[key.len() - 40..];
        assert!(!file.windows(secret.len()).any(|window| window == secret));
    }
}

#[tokio::test]
async fn a_tampered_ca_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let now = SystemTime::now();
    let open = || Authority::open(store.clone(), "acme.internal".parse().unwrap(), "self", Lives::default(), now);
    drop(open().await.unwrap());
    let root = store.list("ca/x509/").await.unwrap()[0].0.clone();
    for key in ["ca/trust", "ca/issuing/self"] {
        let good = store.get(key).await.unwrap().unwrap().value;
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        store.put(key, bad).await.unwrap();
        let error = open().await.map(drop).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains("does not open"), "{error}");
        store.put(key, good).await.unwrap();
    }
    // The root's key is looked at when it has something to sign.
    let authority = open().await.unwrap();
    let (good, issuing) =
        (store.get(&root).await.unwrap().unwrap(), store.get("ca/issuing/self").await.unwrap().unwrap());
    store.put(&root, issuing.value).await.unwrap();
    let error = authority.advance(authority.next_rotation()).await.unwrap_err().to_string();
    assert!(error.contains(&root) && error.contains("does not open"), "{error}");
    store.put("ca/issuing/self", good.value).await.unwrap();
    assert!(open().await.is_err(), "swapped values do not open");
}

#[tokio::test]
async fn the_issuing_ca_of_each_server_renews_itself_at_half_life_under_the_same_root() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let start = SystemTime::now();
    let open =
        |name, now| Authority::open(store.clone(), "acme.internal".parse().unwrap(), name, Lives::default(), now);
    let (one, two) = (open("one", start).await.unwrap(), open("two", start).await.unwrap());
    assert_eq!(one.bundle().roots(), two.bundle().roots());
    let before = common::issue(&one, "prod/board", HOUR, start);
    assert_ne!(before.chain()[1], common::issue(&two, "prod/board", HOUR, start).chain()[1], "each has its own");
    let due = one.next_rotation();
    assert!(!one.advance(due - Duration::from_secs(1)).await.unwrap());
    assert!(one.advance(due).await.unwrap());
    assert!(!one.advance(due).await.unwrap(), "once is enough");
    let set_back = due - Duration::from_secs(24 * 3600);
    assert!(one.advance(set_back).await.unwrap(), "what a clock made that was a day ahead is not valid yet");
    assert!(!one.advance(set_back).await.unwrap());
    let due = one.next_rotation();
    assert!(one.advance(due).await.unwrap() && two.advance(due).await.unwrap());
    let after = common::issue(&one, "prod/board", HOUR, due);
    assert_ne!(before.chain()[1], after.chain()[1]);
    assert_eq!(one.bundle().roots(), two.bundle().roots());
    assert!(one.next_rotation() > due + 10 * 24 * HOUR);
    drop((one, two));
    let much_later = start + 60 * 24 * HOUR;
    assert!(open("one", much_later).await.unwrap().next_rotation() > much_later, "also at start");
}

#[tokio::test]
async fn secrets_for_envoy_follow_the_identity() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &Arc::default()).await;
    let live = LiveIdentity::empty();
    let mut snapshots = sds::snapshots(live.clone());
    assert!(snapshots.borrow_and_update().is_empty());
    let bundle = (*server.authority.bundle()).clone();
    live.set(server.svid("prod/board", HOUR, SystemTime::now()), bundle.clone());
    tokio::time::timeout(SOON, snapshots.changed()).await.unwrap().unwrap();
    let first = snapshots.borrow_and_update().clone();
    live.set(server.svid("prod/board", HOUR, SystemTime::now()), bundle);
    tokio::time::timeout(SOON, snapshots.changed()).await.unwrap().unwrap();
    let second = snapshots.borrow_and_update().clone();
    let version = |snapshot: &weft_xds::Snapshot, name: &str| snapshot.get(type_url::SECRET)[name].version.clone();
    assert_ne!(version(&first, sds::CERTIFICATE), version(&second, sds::CERTIFICATE));
    assert_eq!(version(&first, sds::BUNDLE), version(&second, sds::BUNDLE));
    use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{Secret, secret::Type};
    let secret: Secret = second.get(type_url::SECRET)[sds::CERTIFICATE].decode().unwrap();
    let Some(Type::TlsCertificate(certificate)) = secret.r#type else { panic!("{}", secret.name) };
    let text = format!("{:?}", certificate.certificate_chain);
    assert_eq!(text.matches("BEGIN CERTIFICATE").count(), 2, "leaf and issuing CA");
    server.stop().await;
}

#[tokio::test]
async fn without_an_identity_both_ends_fail_and_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &Arc::default()).await;
    let (address, _) = echo(server.identity("prod/board"), ClientAuth::Required).await;
    let nobody = LiveIdentity::empty();
    let error = tls::explain(&dial(address, &nobody).await.unwrap_err());
    assert!(error.contains("no identity yet"), "{error}");
    let (address, _) = echo(nobody.clone(), ClientAuth::Required).await;
    assert!(dial(address, &server.identity("prod/web")).await.is_err());
    // The same configuration works from the moment in which the identity is there.
    nobody.set(server.svid("prod/board", HOUR, SystemTime::now()), (*server.authority.bundle()).clone());
    nobody.ready().await;
    say(&mut dial(address, &server.identity("prod/web")).await.unwrap(), "hello\n").await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_port_that_speaks_no_tls_is_told_as_such() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    // A join token of zeros: 80 bytes are 107 digits of base64.
    let token = format!("weft.{}", "A".repeat(107)).parse().unwrap();
    let error = attest(&address, &service("prod/web"), &token).await.unwrap_err().to_string();
    assert!(error.contains("does not speak TLS; is it the control plane's port for sidecars"), "{error}");
}

/// The clock of a client is a hundred years behind, so to say: it takes what has expired.
#[tokio::test]
async fn an_expired_server_takes_not_even_those_who_would_accept_it() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &Arc::default()).await;
    let expired = LiveIdentity::empty();
    let bundle = (*server.authority.bundle()).clone();
    expired.set(server.svid("prod/board", HOUR, SystemTime::now() - 2 * HOUR), bundle);
    let (address, _) = echo(expired, ClientAuth::Required).await;
    let files = weft_identity::files::write_files(
        &folder.path().join("web"),
        &server.svid("prod/web", HOUR, SystemTime::now()),
        &server.authority.bundle(),
    )
    .unwrap();
    let [cert, key] = [&files.cert, &files.key].map(|path| path.to_str().unwrap());
    // Without `-verify_return_error` openssl goes on whatever it thinks of the certificate.
    let (answered, said) = common::s_client(address, &["-cert", cert, "-cert_chain", cert, "-key", key]).await;
    assert!(!answered && said.contains("alert certificate unknown"), "{said}");
    assert!(said.contains("certificate has expired") || said.contains("verify error"), "it was shown: {said}");
    server.stop().await;
}
