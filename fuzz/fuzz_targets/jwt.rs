//! Tokens from whoever wants in: a damaged one is nobody's, as a JWT-SVID and as the token of another issuer.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL;
use libfuzzer_sys::fuzz_target;
use weft_fuzz::edited;
use weft_identity::foreign_jwt::{self, IssuerKeys, Unverified};
use weft_identity::{Audience, JwtBundle, JwtKey, JwtSigner, jwt};

const ISSUER: &str = "https://issuer.example";
const AUDIENCE: &str = "prod/board";

struct World {
    bundle: Arc<JwtBundle>,
    svid: String,
    keys: IssuerKeys,
    foreign: String,
    now: SystemTime,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let now = SystemTime::now();
    let signer = JwtSigner::from_pkcs8(&JwtSigner::make().expect("a key")).expect("a key");
    let key = JwtKey::from_spki(&signer.kid(), signer.spki().to_vec()).expect("a key");
    let bundle = Arc::new(JwtBundle::new("acme.internal".parse().expect("legal"), vec![key]).expect("one key"));
    let id = "spiffe://acme.internal/ns/prod/sa/web".parse().expect("legal");
    let audience = Audience::new(vec![AUDIENCE.to_owned()]).expect("one");
    let svid = signer.sign(&id, &audience, now, now + Duration::from_secs(86_400)).expect("signs");
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    let jwks = format!(
        r#"{{"keys": [{{"kty": "EC", "crv": "P-256", "kid": "k", "x": "{}", "y": "{}"}}]}}"#,
        BASE64URL.encode(x),
        BASE64URL.encode(y)
    );
    let claims = format!(r#"{{"iss": "{ISSUER}", "aud": "{AUDIENCE}", "sub": "x", "exp": 4102444800}}"#);
    let signed = format!("{}.{}", BASE64URL.encode(r#"{"alg": "ES256", "kid": "k"}"#), BASE64URL.encode(claims));
    let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).expect("signs");
    let foreign = format!("{signed}.{}", BASE64URL.encode(signature));
    World { bundle, svid, keys: IssuerKeys::read(jwks.as_bytes()).expect("a set"), foreign, now }
});

fuzz_target!(|input: (u8, &[u8])| {
    let (which, bytes) = input;
    let World { bundle, svid, keys, foreign, now } = &*WORLD;
    let token = match which % 4 {
        0 => edited(svid.as_bytes(), bytes),
        1 => edited(foreign.as_bytes(), bytes),
        // Any header and claims, in the right form.
        2 => bytes.split(|byte| *byte == 0).map(|part| BASE64URL.encode(part)).collect::<Vec<_>>().join(".").into_bytes(),
        _ => bytes.to_vec(),
    };
    let Ok(token) = String::from_utf8(token) else { return };
    // The signature apart: of ECDSA there is a second form, and base64 has bits that mean nothing.
    let signed = |token: &str| token.rsplit_once('.').map(|(signed, _)| signed.to_owned());
    if jwt::validate(&token, AUDIENCE, |_| Some(bundle.clone()), *now).is_ok() {
        assert_eq!(signed(&token), signed(svid));
    }
    let _ = Unverified::read(&token);
    if foreign_jwt::validate(&token, ISSUER, AUDIENCE, keys, *now).is_ok() {
        assert_eq!(signed(&token), signed(foreign));
    }
});
