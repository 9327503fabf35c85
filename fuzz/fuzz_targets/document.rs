//! The bundle document of another trust domain, and the JWK Set of another issuer: what is taken reads back as it is written.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use weft_fuzz::edited;
use weft_identity::ca::Ca;
use weft_identity::{Document, IssuerKeys, JwtKey, JwtSigner, TrustBundle, document};
use weft_model::TrustDomain;

static DOMAIN: LazyLock<TrustDomain> = LazyLock::new(|| "west.test".parse().expect("legal"));
static GOOD: LazyLock<String> = LazyLock::new(|| {
    let root = Ca::root(&DOMAIN, SystemTime::now(), Duration::from_secs(3600)).expect("a root");
    let bundle = TrustBundle::new(DOMAIN.clone(), vec![root.certificate().clone()]).expect("a bundle");
    let signer = JwtSigner::from_pkcs8(&JwtSigner::make().expect("a key")).expect("a key");
    let key = JwtKey::from_spki(&signer.kid(), signer.spki().to_vec()).expect("a key");
    document::write(&bundle.with_jwt_keys(vec![key]).expect("one key").with_sequence(7), None)
});

fuzz_target!(|input: (bool, &[u8])| {
    let (is_damage, bytes) = input;
    let text = if is_damage { edited(GOOD.as_bytes(), bytes) } else { bytes.to_vec() };
    let _ = IssuerKeys::read(&text);
    if let Ok(read) = Document::read(&DOMAIN, &text) {
        let again = Document::read(&DOMAIN, document::write(&read.bundle, read.refresh_hint).as_bytes());
        let again = again.expect("what is written is a document");
        assert!(again.bundle.says_the_same(&read.bundle));
        assert_eq!(again.refresh_hint, read.refresh_hint);
    }
});
