use std::time::SystemTime;

use weft_identity::ca::{Ca, requested_key};
use weft_identity::issuing::root_of;

use super::*;

fn vault(bundle: Option<PathBuf>) -> Vault {
    Vault::new(VaultConfig {
        url: "http://127.0.0.1:1".parse().unwrap(),
        mount: "pki".into(),
        ca: None,
        namespace: None,
        login: Login::Token("/nonexistent".into()),
        bundle,
    })
}

fn pem(certificate: &[u8]) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----", BASE64.encode(certificate))
}

#[test]
fn an_answer_is_read_with_and_without_what_was_signed_in_its_chain() {
    let domain = "acme.internal".parse().unwrap();
    let (now, day) = (SystemTime::now(), Duration::from_secs(24 * 3600));
    let root = Ca::root(&domain, now, day).unwrap();
    let request = IssuingRequest::new(&domain).unwrap();
    let issuing = root.issuing_for(&requested_key(request.csr()).unwrap(), &domain, now, day).unwrap();
    let (root, signed) = (pem(root.certificate()), pem(&issuing));
    for chain in [json!([signed, root]), json!([root]), json!([format!("{signed}\n{root}")]), json!(null)] {
        let answer = json!({"certificate": signed, "issuing_ca": root, "ca_chain": chain});
        let read = vault(None).read(&answer).unwrap();
        assert!(read.issuing == issuing && read.above.is_empty() && read.roots.len() == 1, "{answer}");
    }
    let read = vault(None).read(&json!({"certificate": signed, "issuing_ca": root})).unwrap();
    let ca = request.complete(read.issuing).unwrap();
    assert_eq!(root_of(&ca, &read.above, &read.roots, &domain, now).unwrap(), &read.roots[0]);
    for (answer, why) in [
        (json!({}), "no certificate"),
        (json!({"certificate": signed}), "is missing"),
        (json!({"certificate": format!("{signed}\n{root}"), "issuing_ca": root}), "several certificates"),
        (json!({"certificate": "nothing", "issuing_ca": root}), "no certificate"),
        (json!({"certificate": signed, "issuing_ca": 7}), "is missing"),
    ] {
        let told = vault(None).read(&answer).unwrap_err();
        assert!(told.contains(why), "{why}: {told}");
    }
}

#[tokio::test]
async fn a_vault_that_is_away_may_come_back_and_a_missing_token_may_not() {
    let request = IssuingRequest::new(&"acme.internal".parse().unwrap()).unwrap();
    let error = vault(None).sign(&request, Duration::from_secs(60)).await.unwrap_err();
    assert!(!error.is_passing() && error.to_string().contains("/nonexistent"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "s.token\n").unwrap();
    let mut vault = vault(None);
    vault.config.login = Login::Token(token);
    let error = vault.sign(&request, Duration::from_secs(60)).await.unwrap_err();
    assert!(error.is_passing() && error.to_string().contains("127.0.0.1:1 does not answer"), "{error}");
}
