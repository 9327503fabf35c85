use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
    RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding,
};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::jwt_signer::{Audience, AudienceError, JwtSigner, MAX_AUDIENCE, MAX_AUDIENCES};

const DOMAIN: &str = "acme.internal";
const ID: &str = "spiffe://acme.internal/ns/prod/sa/web";
const NOW: u64 = 1_800_000_000;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn bundle(domain: &str, keys: Vec<JwtKey>) -> Arc<JwtBundle> {
    Arc::new(JwtBundle::new(domain.parse().unwrap(), keys).unwrap())
}

fn part(value: &Value) -> String {
    BASE64URL.encode(value.to_string())
}

/// A key that signs whatever it is given.
struct Key {
    pair: EcdsaKeyPair,
    spki: Vec<u8>,
}

impl Key {
    fn new(algorithm: &'static EcdsaSigningAlgorithm) -> Self {
        let pair = EcdsaKeyPair::generate(algorithm).unwrap();
        let der: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let spki = der.as_ref().to_vec();
        Self { pair, spki }
    }

    fn jwt_key(&self) -> JwtKey {
        JwtKey::from_spki("k", self.spki.clone()).unwrap()
    }

    fn token(&self, header: &Value, claims: &Value) -> String {
        let signed = part(header) + "." + &part(claims);
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        signed + "." + &BASE64URL.encode(signature.as_ref())
    }
}

/// A trust domain with one key, and what its tokens look like unless a test changes them.
struct World {
    key: Key,
    bundle: Arc<JwtBundle>,
}

impl World {
    fn new() -> Self {
        let key = Key::new(&ECDSA_P256_SHA256_FIXED_SIGNING);
        let bundle = bundle(DOMAIN, vec![key.jwt_key()]);
        Self { key, bundle }
    }

    /// Validates a token whose header and claims were changed.
    fn with(&self, change: impl FnOnce(&mut Value, &mut Value)) -> Result<JwtSvid, JwtError> {
        let mut header = json!({"alg": "ES256", "kid": "k", "typ": "JWT"});
        let mut claims = json!({"sub": ID, "aud": ["db"], "exp": NOW + 300, "iat": NOW});
        change(&mut header, &mut claims);
        self.judge(&self.key.token(&header, &claims))
    }

    fn with_header(&self, name: &str, value: Value) -> Result<JwtSvid, JwtError> {
        self.with(|header, _| header[name] = value)
    }

    fn with_claim(&self, name: &str, value: Value) -> Result<JwtSvid, JwtError> {
        self.with(|_, claims| claims[name] = value)
    }

    fn good(&self) -> String {
        let header = json!({"alg": "ES256", "kid": "k", "typ": "JWT"});
        self.key.token(&header, &json!({"sub": ID, "aud": ["db"], "exp": NOW + 300}))
    }

    fn judge(&self, token: &str) -> Result<JwtSvid, JwtError> {
        validate(token, "db", |_| Some(self.bundle.clone()), at(NOW))
    }
}

fn without(object: &mut Value, name: &str) {
    object.as_object_mut().unwrap().remove(name);
}

#[test]
fn what_is_signed_here_validates_and_says_what_it_said() {
    let signer = JwtSigner::from_pkcs8(&JwtSigner::make().unwrap()).unwrap();
    let audience = Audience::new(vec!["db".into(), "cache".into()]).unwrap();
    let token = signer.sign(&ID.parse().unwrap(), &audience, at(NOW), at(NOW + 300)).unwrap();
    let keys = vec![JwtKey::from_spki(&signer.kid(), signer.spki().to_vec()).unwrap()];
    for asked in ["db", "cache"] {
        let svid = validate(&token, asked, |_| Some(bundle(DOMAIN, keys.clone())), at(NOW + 299)).unwrap();
        assert_eq!((svid.id.as_str(), svid.expires, svid.kid), (ID, at(NOW + 300), signer.kid()));
        assert_eq!(svid.audience, ["db", "cache"]);
        assert_eq!(svid.claims["iat"], json!(NOW));
    }
    assert!(!format!("{signer:?}").contains("PRIVATE"));
}

#[test]
fn a_token_has_alg_kid_typ_and_no_other_header() {
    let signer = JwtSigner::from_pkcs8(&JwtSigner::make().unwrap()).unwrap();
    let audience = Audience::new(vec!["db".into()]).unwrap();
    let token = signer.sign(&ID.parse().unwrap(), &audience, at(NOW), at(NOW + 300)).unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    let header: Value = serde_json::from_slice(&BASE64URL.decode(parts[0]).unwrap()).unwrap();
    assert_eq!(header, json!({"alg": "ES256", "kid": signer.kid(), "typ": "JWT"}));
    let claims: Value = serde_json::from_slice(&BASE64URL.decode(parts[1]).unwrap()).unwrap();
    assert_eq!(claims, json!({"sub": ID, "aud": ["db"], "exp": NOW + 300, "iat": NOW}));
}

#[test]
fn exp_is_made_as_an_integer() {
    let signer = JwtSigner::from_pkcs8(&JwtSigner::make().unwrap()).unwrap();
    let audience = Audience::new(vec!["db".into()]).unwrap();
    let odd = at(NOW) + Duration::from_millis(1700);
    let token = signer.sign(&ID.parse().unwrap(), &audience, odd, odd).unwrap();
    let claims: Value = serde_json::from_slice(&BASE64URL.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap();
    assert_eq!((claims["exp"].as_u64(), claims["iat"].as_u64()), (Some(NOW + 1), Some(NOW + 1)));
}

#[test]
fn only_the_compact_form_is_read() {
    let world = World::new();
    let token = world.good();
    assert!(world.judge(&token).is_ok());
    let parts: Vec<&str> = token.split('.').collect();
    let json_form = json!({"protected": parts[0], "payload": parts[1], "signature": parts[2]}).to_string();
    let encrypted = format!("{token}.{}.{}", parts[1], parts[2]);
    let padded = format!("{}=.{}.{}", parts[0], parts[1], parts[2]);
    for other in [json_form, encrypted, padded, format!("{token}."), format!(".{token}"), token.replace('.', " ")] {
        assert!(matches!(world.judge(&other), Err(JwtError::Form(_))), "{other}");
    }
    for other in [format!("{}.{}.", parts[0], parts[1]), format!("{token} "), format!("{token}\n")] {
        assert_eq!(world.judge(&other), Err(JwtError::Signature), "{other}");
    }
    assert_eq!(world.judge(&"a".repeat(MAX_TOKEN + 1)), Err(JwtError::TooLong(MAX_TOKEN + 1)));
}

#[test]
fn each_other_algorithm_is_refused() {
    let world = World::new();
    for other in ["none", "None", "HS256", "HS384", "HS512", "EdDSA", "ES256K", "es256", "RSA-OAEP", ""] {
        assert_eq!(world.with_header("alg", json!(other)), Err(JwtError::Algorithm), "{other}");
        // Before anything else is looked at.
        let garbage = format!("{}.!.!", part(&json!({"alg": other, "crit": ["x"]})));
        assert_eq!(world.judge(&garbage), Err(JwtError::Algorithm), "{other}");
    }
    for other in [json!(null), json!(256), json!(["ES256"])] {
        assert_eq!(world.with_header("alg", other), Err(JwtError::Algorithm));
    }
    assert_eq!(world.with(|header, _| without(header, "alg")), Err(JwtError::Algorithm));
}

#[test]
fn the_algorithm_is_that_of_the_key() {
    let world = World::new();
    for other in ["ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"] {
        assert_eq!(world.with_header("alg", json!(other)), Err(JwtError::Signature), "{other}");
    }
}

#[test]
fn each_algorithm_of_the_specification_validates() {
    let claims = json!({"sub": ID, "aud": "db", "exp": NOW + 1});
    let judge = |token: &str, key: JwtKey| validate(token, "db", |_| Some(bundle(DOMAIN, vec![key])), at(NOW));
    let curves = [
        ("ES256", &ECDSA_P256_SHA256_FIXED_SIGNING),
        ("ES384", &ECDSA_P384_SHA384_FIXED_SIGNING),
        ("ES512", &ECDSA_P521_SHA512_FIXED_SIGNING),
    ];
    for (name, algorithm) in curves {
        let key = Key::new(algorithm);
        let token = key.token(&json!({"alg": name, "kid": "k"}), &claims);
        assert_eq!(judge(&token, key.jwt_key()).map(|svid| svid.id.to_string()), Ok(ID.to_owned()), "{name}");
    }
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let spki: PublicKeyX509Der<'_> = rsa.public_key().as_der().unwrap();
    let rsa_key = JwtKey::from_spki("k", spki.as_ref().to_vec()).unwrap();
    let paddings: [(&str, &'static dyn RsaEncoding); 6] = [
        ("RS256", &RSA_PKCS1_SHA256),
        ("RS384", &RSA_PKCS1_SHA384),
        ("RS512", &RSA_PKCS1_SHA512),
        ("PS256", &RSA_PSS_SHA256),
        ("PS384", &RSA_PSS_SHA384),
        ("PS512", &RSA_PSS_SHA512),
    ];
    for (name, padding) in paddings {
        let signed = part(&json!({"alg": name, "kid": "k"})) + "." + &part(&claims);
        let mut signature = vec![0; rsa.public_modulus_len()];
        rsa.sign(padding, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
        let token = format!("{signed}.{}", BASE64URL.encode(&signature));
        assert!(judge(&token, rsa_key.clone()).is_ok(), "{name}");
        // The other padding's name over the same signature.
        let other = if name.starts_with('R') { name.replace('R', "P") } else { name.replace('P', "R") };
        let token =
            token.replacen(&part(&json!({"alg": name, "kid": "k"})), &part(&json!({"alg": other, "kid": "k"})), 1);
        assert_eq!(judge(&token, rsa_key.clone()), Err(JwtError::Signature), "{other}");
    }
}

#[test]
fn what_validators_do_with_other_headers() {
    let world = World::new();
    for name in REFUSED {
        assert_eq!(world.with_header(name, json!(["x"])), Err(JwtError::Parameter(name)));
    }
    assert!(world.with_header("x-anything", json!("y")).is_ok());
}

#[test]
fn a_token_without_kid_is_refused_with_a_clear_cause() {
    let world = World::new();
    let refused = world.with(|header, _| without(header, "kid"));
    assert_eq!(refused, Err(JwtError::NoKid));
    assert_eq!(refused.unwrap_err().to_string(), "the token does not say which key signed it: it has no `kid`");
    assert_eq!(world.with_header("kid", json!("")), Err(JwtError::NoKid));
    assert_eq!(world.with_header("kid", json!(7)), Err(JwtError::NoKid));
    assert_eq!(world.with_header("kid", json!("other")), Err(JwtError::UnknownKey(DOMAIN.parse().unwrap())));
}

#[test]
fn typ_is_jwt_or_jose_or_absent() {
    let world = World::new();
    for typ in ["JWT", "JOSE"] {
        assert!(world.with_header("typ", json!(typ)).is_ok(), "{typ}");
    }
    assert!(world.with(|header, _| without(header, "typ")).is_ok());
    for typ in [json!("jwt"), json!("at+jwt"), json!(""), json!(null), json!(1)] {
        assert_eq!(world.with_header("typ", typ.clone()), Err(JwtError::Type), "{typ}");
    }
}

#[test]
fn sub_is_the_id_and_an_empty_or_foreign_one_is_refused() {
    let world = World::new();
    assert_eq!(world.with_claim("sub", json!(ID)).unwrap().id.as_str(), ID);
    assert_eq!(world.with(|_, claims| without(claims, "sub")), Err(JwtError::Subject("it is missing")));
    for sub in [
        json!(""),
        json!(7),
        json!(null),
        json!("web"),
        json!("spiffe://acme.internal"),
        json!("https://acme.internal/x"),
    ] {
        assert!(matches!(world.with_claim("sub", sub.clone()), Err(JwtError::Subject(_))), "{sub}");
    }
    let foreign = world.with_claim("sub", json!("spiffe://other.internal/ns/prod/sa/web"));
    assert_eq!(
        foreign,
        Err(JwtError::Foreign("other.internal".parse().unwrap())),
        "the bundle is not of its trust domain"
    );
}

#[test]
fn a_token_is_judged_by_the_bundle_of_its_subjects_trust_domain() {
    let (ours, theirs) = (World::new(), World::new());
    let other = bundle("other.internal", vec![theirs.key.jwt_key()]);
    let bundles = [ours.bundle.clone(), other];
    let of = |domain: &TrustDomain| bundles.iter().find(|bundle| bundle.trust_domain() == domain).cloned();
    let claims = |domain: &str| json!({"sub": format!("spiffe://{domain}/x"), "aud": "db", "exp": NOW + 1});
    let header = json!({"alg": "ES256", "kid": "k"});
    let judge = |token: &str| validate(token, "db", of, at(NOW)).map(|svid| svid.id.trust_domain().to_string());
    assert_eq!(judge(&ours.key.token(&header, &claims(DOMAIN))), Ok(DOMAIN.to_owned()));
    assert_eq!(judge(&theirs.key.token(&header, &claims("other.internal"))), Ok("other.internal".to_owned()));
    assert_eq!(judge(&theirs.key.token(&header, &claims(DOMAIN))), Err(JwtError::Signature));
    assert_eq!(judge(&ours.key.token(&header, &claims("other.internal"))), Err(JwtError::Signature));
    let nobody = judge(&ours.key.token(&header, &claims("third.internal")));
    assert_eq!(nobody, Err(JwtError::Foreign("third.internal".parse().unwrap())));
}

#[test]
fn no_token_is_made_without_an_audience() {
    assert_eq!(Audience::new(vec![]), Err(AudienceError::Missing));
    assert_eq!(Audience::new(vec![String::new(), String::new()]), Err(AudienceError::Missing));
    let once = Audience::new(vec!["db".into(), String::new(), "db".into(), "a".into()]).unwrap();
    assert_eq!(once.values(), ["db", "a"]);
    let many = |count: usize, length: usize| Audience::new((0..count).map(|n| format!("{n:0length$}")).collect());
    assert!(many(MAX_AUDIENCES, 3).is_ok() && many(1, MAX_AUDIENCE).is_ok());
    for (count, length) in [(MAX_AUDIENCES + 1, 3), (1, MAX_AUDIENCE + 1), (5, 1000)] {
        assert_eq!(many(count, length), Err(AudienceError::TooMany), "{count} of {length}");
    }
    assert_eq!(Audience::new(vec!["d\nb".into()]), Err(AudienceError::Control));
}

#[test]
fn a_wrong_or_missing_audience_is_refused() {
    let world = World::new();
    for aud in [json!("other"), json!(["other"]), json!("DB"), json!(["d", "b"]), json!("")] {
        assert_eq!(world.with_claim("aud", aud.clone()), Err(JwtError::Audience), "{aud}");
    }
    for aud in [json!([]), json!(null), json!(7), json!(["db", 7]), json!({"db": 1})] {
        assert_eq!(world.with_claim("aud", aud.clone()), Err(JwtError::AudienceMissing), "{aud}");
    }
    assert_eq!(world.with(|_, claims| without(claims, "aud")), Err(JwtError::AudienceMissing));
}

#[test]
fn aud_is_read_as_a_string_and_as_a_list() {
    let world = World::new();
    for aud in [json!("db"), json!(["db"])] {
        let svid = world.with_claim("aud", aud).unwrap();
        assert_eq!((svid.audience, &svid.claims["aud"]), (vec!["db".to_owned()], &json!(["db"])));
    }
    assert_eq!(world.with_claim("aud", json!(["a", "db"])).unwrap().audience, ["a", "db"]);
}

#[test]
fn a_validator_without_an_audience_accepts_nothing() {
    let world = World::new();
    let token = world.key.token(&json!({"alg": "ES256", "kid": "k"}), &json!({"sub": ID, "aud": "", "exp": NOW + 1}));
    assert_eq!(validate(&token, "", |_| Some(world.bundle.clone()), at(NOW)), Err(JwtError::NoAudience));
}

#[test]
fn a_missing_or_past_exp_is_refused() {
    let world = World::new();
    assert!(world.with_claim("exp", json!(NOW + 1)).is_ok());
    assert_eq!(world.with_claim("exp", json!(NOW)), Err(JwtError::Expired(0)));
    assert_eq!(world.with_claim("exp", json!(NOW - 7)), Err(JwtError::Expired(7)));
    assert_eq!(world.with(|_, claims| without(claims, "exp")), Err(JwtError::NoExpiry));
    for exp in [json!(null), json!((NOW + 9).to_string()), json!(-1), json!(1e300), json!([NOW + 9])] {
        assert_eq!(world.with_claim("exp", exp.clone()), Err(JwtError::NoExpiry), "{exp}");
    }
    assert!(world.with_claim("nbf", json!(NOW + 30)).is_ok(), "a clock may be ahead");
    assert_eq!(world.with_claim("nbf", json!(NOW + 31)), Err(JwtError::NotYetValid));
    assert_eq!(world.with_claim("nbf", json!("soon")), Err(JwtError::NotYetValid));
}

#[test]
fn no_message_shows_a_part_of_the_token() {
    let world = World::new();
    let secret = "c2VjcmV0";
    let messages = [
        world.with_header("alg", json!(secret)),
        world.with_header("typ", json!(secret)),
        world.with_header("kid", json!(secret)),
        world.with_claim("sub", json!(secret)),
        world.with_claim("sub", json!(format!("spiffe://{DOMAIN}/{secret}/"))),
        world.with_claim("aud", json!(secret)),
        world.with_claim("exp", json!(secret)),
        world.judge(&format!("{secret}.{secret}.{secret}")),
    ];
    for message in messages {
        let error = message.unwrap_err();
        assert!(!format!("{error} {error:?}").contains(secret), "{error}");
    }
}

#[test]
fn a_jwk_set_has_jwt_keys_each_with_its_own_kid_and_nothing_of_spiffe() {
    let key = Key::new(&ECDSA_P256_SHA256_FIXED_SIGNING);
    let point = key.pair.public_key().as_ref();
    let text = bundle(DOMAIN, vec![key.jwt_key()]).jwks();
    let expected = json!({"keys": [{
        "kty": "EC", "kid": "k", "crv": "P-256",
        "x": BASE64URL.encode(&point[1..33]), "y": BASE64URL.encode(&point[33..]),
    }]});
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let spki: PublicKeyX509Der<'_> = rsa.public_key().as_der().unwrap();
    let text = bundle(DOMAIN, vec![JwtKey::from_spki("r", spki.as_ref().to_vec()).unwrap()]).jwks();
    let set: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&set["keys"][0]["kty"], &set["keys"][0]["e"]), (&json!("RSA"), &json!("AQAB")));
    assert_eq!(set["keys"][0]["n"].as_str().map(str::len), Some(342), "256 bytes without the zero of DER");
    assert_eq!(bundle(DOMAIN, vec![]).jwks(), r#"{"keys":[]}"#);

    assert!(JwtBundle::new(DOMAIN.parse().unwrap(), vec![key.jwt_key(), key.jwt_key()]).is_err(), "one `kid` twice");
    assert!(JwtKey::from_spki("", key.spki.clone()).is_err());
    assert!(JwtKey::from_spki("k", key.spki[1..].to_vec()).is_err());
    assert!(JwtKey::from_spki("k", [&*key.spki, b"x"].concat()).is_err());
}

proptest! {
    /// One byte of a token is another: it is never valid, and never anything worse than refused.
    #[test]
    fn changed_bytes_never_validate(at in 0usize..1000, with in any::<char>()) {
        static WORLD: std::sync::LazyLock<(World, String)> = std::sync::LazyLock::new(|| {
            let world = World::new();
            let token = world.good();
            (world, token)
        });
        let (world, token) = &*WORLD;
        let mut characters: Vec<char> = token.chars().collect();
        let at = at % characters.len();
        prop_assume!(characters[at] != with);
        characters[at] = with;
        let changed: String = characters.into_iter().collect();
        prop_assert!(world.judge(&changed).is_err(), "{changed}");
    }
}
