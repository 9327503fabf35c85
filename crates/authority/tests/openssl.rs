//! What we issue and what we refuse, in the judgement of OpenSSL.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::{HOUR, Intent, Server, echo, id, issue, openssl, s_client};
use weft_authority::{Authority, Lives};
use weft_identity::files::{IdentityFiles, write_files};
use weft_identity::{ClientAuth, Names, PeerMatch, Svid, TrustBundle, tls};
use weft_store::Store;

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

fn write(folder: &std::path::Path, name: &str, svid: &Svid, bundle: &TrustBundle) -> IdentityFiles {
    write_files(&folder.join(name), svid, bundle).unwrap()
}

#[tokio::test]
async fn an_svid_satisfies_the_specification_and_the_strict_path_validation_of_openssl() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &Arc::default()).await;
    let svid = server.svid("prod/board", HOUR, SystemTime::now());
    let files = write(folder.path(), "board", &svid, &server.authority.bundle());

    let (_, shown) = openssl(&["x509", "-noout", "-text", "-in", text(&files.cert)], b"").await;
    let flat = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    for expected in [
        "X509v3 Subject Alternative Name: critical URI:spiffe://acme.internal/ns/prod/sa/board X509v3",
        "X509v3 Key Usage: critical Digital Signature X509v3",
        "X509v3 Extended Key Usage: TLS Web Server Authentication, TLS Web Client Authentication",
        "X509v3 Basic Constraints: critical CA:FALSE",
        "NIST CURVE: P-256",
        "Signature Algorithm: ecdsa-with-SHA256",
    ] {
        assert!(flat.contains(expected), "{expected}\n{shown}");
    }
    let (_, serial) = openssl(&["x509", "-noout", "-serial", "-in", text(&files.cert)], b"").await;
    assert_eq!(serial.trim(), format!("serial={}", svid.serial()));

    let pem = std::fs::read_to_string(&files.cert).unwrap();
    let issuing = folder.path().join("issuing.pem");
    let (_, rest) = pem.split_once("-----END CERTIFICATE-----\n").unwrap();
    std::fs::write(&issuing, rest).unwrap();
    for (path, constraints) in [(&issuing, "CA:TRUE, pathlen:0"), (&files.bundle, "CA:TRUE")] {
        let (_, shown) = openssl(&["x509", "-noout", "-text", "-in", text(path)], b"").await;
        let flat = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        for expected in [
            "X509v3 Key Usage: critical Certificate Sign, CRL Sign",
            &format!("X509v3 Basic Constraints: critical {constraints}"),
            "URI:spiffe://acme.internal X509v3",
        ] {
            assert!(flat.contains(expected), "{expected}\n{shown}");
        }
    }
    for purpose in ["sslserver", "sslclient"] {
        let arguments = [
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-CAfile",
            text(&files.bundle),
            "-untrusted",
            text(&issuing),
            text(&files.cert),
        ];
        let (ok, said) = openssl(&arguments, b"").await;
        assert!(ok, "{said}");
    }
    let (ok, said) = openssl(&["pkey", "-in", text(&files.key), "-check", "-noout"], b"").await;
    assert!(ok, "{said}");
    server.stop().await;
}

#[tokio::test]
async fn the_server_can_be_verified_by_host_name_too() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &Arc::default()).await;
    let files = write(folder.path(), "x", &server.svid("prod/x", HOUR, SystemTime::now()), &server.authority.bundle());
    let (address, _) = echo(server.live.clone(), ClientAuth::None).await;
    for name in [["-verify_hostname", "localhost"], ["-verify_ip", "127.0.0.1"], ["-verify_ip", "::1"]] {
        let (ok, said) =
            s_client(address, &["-verify_return_error", "-CAfile", text(&files.bundle), name[0], name[1]]).await;
        assert!(ok, "{said}");
    }
    let (ok, _) =
        s_client(address, &["-verify_return_error", "-CAfile", text(&files.bundle), "-verify_hostname", "evil"]).await;
    assert!(!ok);
    server.stop().await;
}

#[tokio::test]
async fn a_listener_takes_only_clients_of_the_mesh() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &Arc::default()).await;
    let bundle = server.authority.bundle();
    let now = SystemTime::now();
    let good = write(folder.path(), "good", &server.svid("prod/web", HOUR, now), &bundle);
    let expired = write(folder.path(), "expired", &server.svid("prod/web", HOUR, now - 2 * HOUR), &bundle);
    let early = write(folder.path(), "early", &server.svid("prod/web", HOUR, now + HOUR), &bundle);
    let store = Store::open(&folder.path().join("other")).unwrap();
    let other = Authority::open(store, "acme.internal".parse().unwrap(), "self", Lives::default(), now).await.unwrap();
    let foreign = write(folder.path(), "foreign", &issue(&other, "prod/web", HOUR, now), &bundle);

    let (address, _) = echo(server.identity("prod/board"), ClientAuth::Required).await;
    let with = |files: &IdentityFiles| {
        let files = files.clone();
        async move {
            s_client(
                address,
                &[
                    "-verify_return_error",
                    "-CAfile",
                    text(&files.bundle),
                    "-cert",
                    text(&files.cert),
                    "-cert_chain",
                    text(&files.cert),
                    "-key",
                    text(&files.key),
                ],
            )
            .await
        }
    };
    let (answered, said) = with(&good).await;
    assert!(answered, "{said}");
    for (files, alert) in [(&expired, "certificate expired"), (&early, "certificate expired"), (&foreign, "unknown ca")]
    {
        let (answered, said) = with(files).await;
        assert!(!answered && said.contains(alert), "{alert}: {said}");
    }
    let (answered, said) = s_client(address, &["-CAfile", text(&good.bundle)]).await;
    assert!(!answered && said.contains("certificate required"), "{said}");
    let (answered, said) = s_client(
        address,
        &["-tls1_2", "-cert", text(&good.cert), "-cert_chain", text(&good.cert), "-key", text(&good.key)],
    )
    .await;
    assert!(!answered && said.contains("protocol version"), "{said}");

    let (address, _) = echo(server.identity("prod/board"), ClientAuth::Optional).await;
    let (answered, said) = s_client(address, &[]).await;
    assert!(answered, "without one, where it is optional: {said}");
    let foreign_too = ["-cert", text(&foreign.cert), "-cert_chain", text(&foreign.cert), "-key", text(&foreign.key)];
    let (answered, said) = s_client(address, &foreign_too).await;
    assert!(!answered && said.contains("unknown ca"), "one that is shown must be valid: {said}");
    server.stop().await;
}

#[tokio::test]
async fn no_session_is_ever_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &Arc::default()).await;
    let (address, _) = echo(server.identity("prod/board"), ClientAuth::Optional).await;
    let session = folder.path().join("session");
    let address = address.to_string();
    let (_, said) =
        openssl(&["s_client", "-connect", &address, "-sess_out", text(&session), "-ign_eof"], b"bye\n").await;
    assert!(said.contains("TLSv1.3") && !said.contains("Session Ticket arrived"), "{said}");
    server.stop().await;
}

#[tokio::test]
async fn a_server_of_another_kind_than_expected_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path(), &Arc::<Intent>::default()).await;
    let (address, _) = echo(server.identity("prod/board"), ClientAuth::Required).await;
    let web = server.identity("prod/web");
    let dial = |expected: PeerMatch| {
        let connector = tokio_rustls::TlsConnector::from(tls::client_config(web.clone(), expected, &[]));
        async move {
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            connector.connect("outbound_.8080_._.board.prod".try_into().unwrap(), stream).await
        }
    };
    assert!(dial(PeerMatch::Exact(id("prod/board"))).await.is_ok());
    assert!(dial(PeerMatch::TrustDomain("acme.internal".parse().unwrap())).await.is_ok());
    let wrong = dial(PeerMatch::Exact(id("prod/other"))).await.unwrap_err();
    assert_eq!(
        tls::explain(&wrong),
        "the peer is spiffe://acme.internal/ns/prod/sa/board, expected was spiffe://acme.internal/ns/prod/sa/other"
    );
    assert!(dial(PeerMatch::TrustDomain("evil.test".parse().unwrap())).await.is_err());
    server.stop().await;
}

#[tokio::test]
async fn the_names_of_a_server_certificate_are_checked_and_its_life_ends_with_its_issuer() {
    let folder = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let lives = Lives { root: HOUR, issuing: Duration::from_secs(600), ..Lives::default() };
    let authority =
        Authority::open(Store::open(folder.path()).unwrap(), "acme.internal".parse().unwrap(), "self", lives, now)
            .await
            .unwrap();
    let svid = issue(&authority, "prod/board", 24 * HOUR, now);
    assert!(svid.not_after() <= now + Duration::from_secs(600));
    let names = Names { dns: vec!["b\u{fc}cher".into()], ips: vec![] };
    let error = authority.own_svid(&names, HOUR, now).unwrap_err().to_string();
    assert!(error.contains("is no DNS name"), "{error}");
}
