use std::time::UNIX_EPOCH;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::jwk::members;

const ISSUER: &str = "https://issuer.example";
const AUDIENCE: &str = "weft.acme.internal";

struct Issuer(EcdsaKeyPair);

impl Issuer {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key"))
    }

    fn jwk(&self, kid: &str) -> Value {
        let spki = self.0.public_key().as_der().expect("a key");
        let spki: &aws_lc_rs::encoding::PublicKeyX509Der<'_> = &spki;
        let key = JwtKey::from_spki(kid, spki.as_ref().to_vec()).expect("a key");
        let mut jwk = members(&key.material);
        jwk["kid"] = kid.into();
        jwk
    }

    fn keys(&self) -> IssuerKeys {
        IssuerKeys::read(json!({"keys": [self.jwk("k1")]}).to_string().as_bytes()).expect("a set")
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let signed = [header, claims].map(|part| BASE64URL.encode(part.to_string())).join(".");
        let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes()).expect("it signs");
        format!("{signed}.{}", BASE64URL.encode(signature))
    }
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn header() -> Value {
    json!({"alg": "ES256", "kid": "k1", "x5t": "passed over"})
}

fn claims() -> Value {
    json!({"iss": ISSUER, "aud": ["other", AUDIENCE], "sub": "me", "exp": 1_800_000_600, "iat": 1_800_000_000, "nbf": 1_800_000_000})
}

fn with(name: &str, value: Value) -> Value {
    let mut changed = claims();
    match value {
        Value::Null => drop(changed.as_object_mut().expect("a map").remove(name)),
        value => changed[name] = value,
    }
    changed
}

#[test]
fn a_token_that_keeps_every_rule_is_taken_with_its_claims() {
    let issuer = Issuer::new();
    let token = issuer.sign(&header(), &claims());
    let jwt = validate(&token, ISSUER, AUDIENCE, &issuer.keys(), now()).expect("it is good");
    assert_eq!((jwt.claims["sub"].as_str(), jwt.expires), (Some("me"), now() + Duration::from_secs(600)));
    assert!(!format!("{jwt:?}").contains("issuer.example"));
    assert_eq!(Unverified::read(&token), Ok(Unverified { issuer: ISSUER.into(), kid: "k1".into() }));
    let late = validate(&token, ISSUER, AUDIENCE, &issuer.keys(), now() + Duration::from_secs(629));
    assert_eq!(late.expect("within the leeway").digest, jwt.digest);
    let early = validate(&token, ISSUER, AUDIENCE, &issuer.keys(), now() - Duration::from_secs(30));
    assert!(early.is_ok(), "{early:?}");
}

#[test]
fn each_rule_that_a_token_breaks_is_told() {
    let issuer = Issuer::new();
    let judge = |header: &Value, claims: &Value| {
        let token = issuer.sign(header, claims);
        validate(&token, ISSUER, AUDIENCE, &issuer.keys(), now()).expect_err("it must be refused").to_string()
    };
    for (name, value, why) in [
        ("iss", json!("https://evil.example"), "of the issuer https://evil.example"),
        ("iss", Value::Null, "no `iss`"),
        (
            "aud",
            json!("https://kubernetes.default.svc"),
            "is for https://kubernetes.default.svc, not for weft.acme.internal",
        ),
        ("aud", Value::Null, "no `aud`"),
        ("exp", Value::Null, "no `exp`"),
        ("exp", json!("soon"), "no `exp`"),
        ("exp", json!(1_799_999_970), "expired 30 s ago"),
        ("nbf", json!(1_800_000_031), "`nbf`"),
        ("nbf", json!("now"), "`nbf`"),
        ("iat", json!(1_800_000_031), "`iat`"),
    ] {
        let told = judge(&header(), &with(name, value));
        assert!(told.contains(why), "{name}: {told}");
    }
    for (header, why) in [
        (json!({"alg": "none", "kid": "k1"}), "algorithm"),
        (json!({"alg": "HS256", "kid": "k1"}), "algorithm"),
        (json!({"alg": "ES256"}), "no `kid`"),
        (json!({"alg": "ES256", "kid": "k2"}), "no key with the `kid`"),
        (json!({"alg": "ES256", "kid": "k1", "jwk": {}}), "`jwk`"),
        (json!({"alg": "ES256", "kid": "k1", "typ": "logout+jwt"}), "`typ`"),
        (json!({"alg": "RS256", "kid": "k1"}), "signature is wrong"),
    ] {
        let told = judge(&header, &claims());
        assert!(told.contains(why), "{header}: {told}");
    }
    let forged = Issuer::new().sign(&header(), &claims());
    let error = validate(&forged, ISSUER, AUDIENCE, &issuer.keys(), now()).expect_err("another key's");
    assert_eq!(error, ForeignJwtError::Jwt(JwtError::Signature));
}

#[test]
fn a_key_serves_its_own_algorithm_and_use() {
    let issuer = Issuer::new();
    let token = issuer.sign(&header(), &claims());
    let judge = |name: &str, value: Value| {
        let mut jwk = issuer.jwk("k1");
        jwk[name] = value;
        let keys = IssuerKeys::read(json!({"keys": [jwk, {"kty": "OKP", "kid": "k3"}, 7]}).to_string().as_bytes());
        validate(&token, ISSUER, AUDIENCE, &keys.expect("a set"), now()).map(drop)
    };
    assert_eq!(judge("use", json!("sig")), Ok(()));
    assert_eq!(judge("alg", json!("ES256")), Ok(()));
    assert_eq!(judge("alg", json!("ES384")), Err(ForeignJwtError::KeyAlgorithm("ES256")));
    assert_eq!(judge("use", json!("enc")), Err(ForeignJwtError::UnknownKey));
    assert_eq!(judge("crv", json!("secp256k1")), Err(ForeignJwtError::UnknownKey));
    assert!(IssuerKeys::read(b"{}").expect_err("no set").contains("no JWK Set"));
    let many = json!({"keys": vec![issuer.jwk("k1"); MAX_KEYS + 1]}).to_string();
    assert!(IssuerKeys::read(many.as_bytes()).expect_err("too many").contains("more than 64"));
}

/// Of an ECDSA signature (r, s) anybody can make (r, n - s), which is as good: the token is the same one.
#[test]
fn a_token_with_the_other_form_of_its_signature_is_the_same_token() {
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad,
        0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let issuer = Issuer::new();
    let token = issuer.sign(&header(), &claims());
    let (signed, signature) = token.rsplit_once('.').expect("three parts");
    let mut bytes = BASE64URL.decode(signature).expect("base64url");
    let mut borrow = 0;
    for at in (0..32).rev() {
        let difference = i16::from(ORDER[at]) - i16::from(bytes[32 + at]) - borrow;
        borrow = i16::from(difference < 0);
        bytes[32 + at] = difference.rem_euclid(256) as u8;
    }
    let other = format!("{signed}.{}", BASE64URL.encode(bytes));
    assert_ne!(other, token);
    let judge = |token: &str| validate(token, ISSUER, AUDIENCE, &issuer.keys(), now()).expect("it verifies").digest;
    assert_eq!(judge(&token), judge(&other));
}

proptest! {
    #[test]
    fn a_strangers_token_or_set_never_panics(token in "(?s)\\PC{0,80}", set in "(?s)\\PC{0,80}") {
        let _ = Unverified::read(&token);
        let _ = IssuerKeys::read(set.as_bytes());
        let _ = validate(&token, ISSUER, AUDIENCE, &IssuerKeys::default(), now());
    }
}
