//! A machine with a certificate from elsewhere: first contact, the way back when its own key is refused, and what is no proof.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::{HOUR, Intent, SOON, Server, id, service};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384,
    PKCS_ED25519,
};
use weft_identity::files::certificates_pem;
use weft_identity::proto::identity_client::IdentityClient;
use weft_identity::{Identity, IdentityConfig, NodeProof, NodeProofFiles, Proof, connect, proto};
use weft_model::Span;
use weft_model::intent::{NodeEntry, NodeProof as Entry, Wildcard, X509pop};

/// A CA of somebody else, and an entry by which its machines become `prod/board`.
fn foreign(intent: &Intent) -> Issuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "dc1");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let span = Span { file: "mesh.yaml".into(), line: 1, column: 1 };
    let proof = Entry::X509pop(X509pop {
        ca: certificate.pem().into(),
        ca_span: span.clone(),
        common_name: Vec::new(),
        dns_name: vec![Wildcard("*.board.dc1.test".into())],
        uri: Vec::new(),
        fingerprint: Vec::new(),
    });
    *intent.nodes.lock().unwrap() = vec![NodeEntry { proof, services: vec![service("prod/board")], agent: None, span }];
    Issuer::from_ca_cert_der(certificate.der(), key).unwrap()
}

/// The files of a machine with this key, and the roots of the mesh beside them.
fn proof(server: &Server, name: &str, issuer: &Issuer<'_, KeyPair>, key: &KeyPair) -> Proof {
    let mut params = CertificateParams::new(vec![format!("{name}.board.dc1.test")]).unwrap();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let certificate = params.signed_by(key, issuer).unwrap();
    let file = |end: &str| server.folder.join(format!("{name}.{end}"));
    std::fs::write(file("pem"), certificate.pem()).unwrap();
    std::fs::write(file("key"), key.serialize_pem()).unwrap();
    std::fs::write(file("roots"), certificates_pem(server.authority.bundle().roots())).unwrap();
    let by = NodeProofFiles::Certificate { chain: file("pem"), key: file("key") };
    Proof::Node(NodeProof { by, server_ca: file("roots") })
}

fn config(server: &Server, name: &str, proof: Proof) -> IdentityConfig {
    IdentityConfig {
        server: server.address.to_string(),
        subject: service("prod/board").into(),
        node_id: format!("prod/board~{name}"),
        proof: Some(proof),
        state_dir: server.folder.join("state").join(name),
    }
}

#[tokio::test]
async fn keys_of_each_kind_prove_and_the_machine_is_enrolled_by_them() {
    let (folder, intent) = (tempfile::tempdir().unwrap(), Arc::new(Intent::default()));
    intent.set("prod/board", Some(HOUR));
    let issuer = foreign(&intent);
    let server = Server::start(folder.path(), &intent).await;
    let rsa = folder.path().join("rsa.key");
    let (made, told) = common::openssl(&["genrsa", "-out", rsa.to_str().unwrap(), "2048"], b"").await;
    assert!(made, "{told}");
    let rsa = KeyPair::from_pem(&std::fs::read_to_string(rsa).unwrap()).unwrap();
    let made = |algorithm| KeyPair::generate_for(algorithm).unwrap();
    for (name, key) in [
        ("p256", KeyPair::generate().unwrap()),
        ("p384", made(&PKCS_ECDSA_P384_SHA384)),
        ("ed25519", made(&PKCS_ED25519)),
        ("rsa", rsa),
    ] {
        let config = config(&server, name, proof(&server, name, &issuer, &key));
        let identity = Identity::start(config).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(identity.live().id(), Some(id("prod/board")), "{name}");
        assert!(
            weft_identity::certificate::machine_of(&identity.live().load().svid().unwrap().chain()[0])
                .unwrap()
                .is_some()
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn a_machine_whose_key_is_refused_comes_back_by_its_certificate() {
    let (folder, intent) = (tempfile::tempdir().unwrap(), Arc::new(Intent::default()));
    intent.set("prod/board", Some(Duration::from_secs(4)));
    let issuer = foreign(&intent);
    let server = Server::start(folder.path(), &intent).await;
    let key = KeyPair::generate().unwrap();
    let config = config(&server, "m1", proof(&server, "m1", &issuer, &key));
    let identity = Identity::start(config.clone()).await.unwrap();
    let serial = || identity.live().load().svid().unwrap().serial().to_owned();
    let (first, address) = (serial(), server.address);
    server.stop().await;
    let mut status = identity.status();
    let expired = || identity.live().fault().is_some();
    tokio::time::timeout(SOON, status.wait_for(|_| expired())).await.unwrap().unwrap();

    // Its life is over, by which the key of the machine brings nothing any more.
    *intent.machine_life.lock().unwrap() = Some(Duration::ZERO);
    let server = Server::start_on(folder.path(), &intent, address).await;
    tokio::time::timeout(SOON, identity.live().unexpired()).await.unwrap();
    assert_ne!(serial(), first);
    let mut status = identity.status();
    let renewed = tokio::time::timeout(SOON, status.wait_for(|status| status.renewals >= 1)).await.unwrap();
    assert_eq!(renewed.unwrap().last_error, None);
    drop(identity);

    // So it does when it is started again and its certificate has run out meanwhile.
    let end = weft_identity::saved::Saved::load(&config.state_dir).unwrap().unwrap().svid.not_after();
    let over = async {
        while SystemTime::now() < end + Duration::from_secs(1) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(SOON, over).await.unwrap();
    let again = Identity::start(config).await.unwrap();
    assert!(again.live().fault().is_none());
    server.stop().await;
}

#[tokio::test]
async fn a_request_with_two_proofs_with_a_wrong_one_or_without_a_machine_is_refused() {
    let (folder, intent) = (tempfile::tempdir().unwrap(), Arc::new(Intent::default()));
    intent.set("prod/board", Some(HOUR));
    let issuer = foreign(&intent);
    let server = Server::start(folder.path(), &intent).await;
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["m1.board.dc1.test".into()]).unwrap();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let chain = vec![params.signed_by(&key, &issuer).unwrap().der().to_vec()];
    let certificate = proto::NodeCertificate { chain, scheme: 0x0403, signature: b"no signature".to_vec() };
    let csr = weft_identity::ca::KeyRequest::new().unwrap().csr;
    let request = proto::AttestRequest { service: "prod/board".into(), csr, ..Default::default() };
    let ask = |request: proto::AttestRequest| {
        let (address, live) = (server.address.to_string(), server.identity("prod/board"));
        async move {
            let channel = connect(&address, &live).await.unwrap();
            IdentityClient::new(channel).attest(request).await.unwrap_err()
        }
    };
    let both = proto::AttestRequest { certificate: Some(certificate.clone()), jwt: "a.b.c".into(), ..request.clone() };
    let error = ask(both).await;
    assert!(error.code() == tonic::Code::InvalidArgument && error.message().contains("one proof"), "{error}");
    let alone = proto::AttestRequest { certificate: Some(certificate), ..request.clone() };
    let error = ask(alone).await;
    assert!(error.code() == tonic::Code::InvalidArgument && error.message().contains("key of the machine"), "{error}");
    let token = proto::AttestRequest { jwt: "a.b.c".into(), ..request.clone() };
    assert_eq!(ask(token).await.code(), tonic::Code::InvalidArgument);
    assert_eq!(ask(request).await.code(), tonic::Code::InvalidArgument, "nothing is no proof");
    server.stop().await;
}
