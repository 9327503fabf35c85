//! The SPIFFE bundle document (SPIFFE Trust Domain and Bundle s.4): what a trust domain publishes of its keys, and what is read of another's.
//!
//! Pure. What is read is a stranger's: bounded, and judged whole before any of it counts.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use serde_json::{Value, json};
use weft_model::TrustDomain;

use crate::certificate::parse;
use crate::jwk::{self, JWT_SVID, JwtKey, Members, X509_SVID};
use crate::svid::TrustBundle;

/// A longer document is refused.
pub const MAX_BYTES: usize = 1 << 20;
/// More certificates or keys for tokens are refused: all of them go to every workload.
pub const MAX_KEYS: usize = 64;

/// What a document says.
#[derive(Clone, Debug)]
pub struct Document {
    /// The keys, with `spiffe_sequence` as their number, 0 without one.
    pub bundle: TrustBundle,
    /// `spiffe_sequence` (s.4.1.1).
    pub sequence: Option<u64>,
    /// `spiffe_refresh_hint` (s.4.1.2).
    pub refresh_hint: Option<Duration>,
}

/// A JWK Set with the parameters of SPIFFE. A name that stands there twice is an error (RFC 8259 s.4).
#[derive(Deserialize)]
struct Whole {
    keys: Vec<Value>,
    spiffe_sequence: Option<u64>,
    spiffe_refresh_hint: Option<u64>,
}

/// What an element is for.
#[derive(Deserialize)]
struct Element {
    kid: Option<String>,
    x5c: Option<Vec<String>>,
    #[serde(flatten)]
    members: Members,
}

/// A document of this bundle: `x509-svid` keys without `kid`, `jwt-svid` keys with one, and the bundle's number as `spiffe_sequence`.
pub fn write(bundle: &TrustBundle, refresh_hint: Option<Duration>) -> String {
    let roots = bundle.roots().iter().filter_map(|root| {
        // What a bundle holds was parsed before.
        let mut key = jwk::members(&jwk::material(parse(root).ok()?.public_key().raw).ok()?);
        key["use"] = X509_SVID.into();
        key["x5c"] = json!([BASE64.encode(root)]);
        Some(key)
    });
    let keys: Vec<Value> = roots.chain(bundle.jwt().keys().iter().map(JwtKey::jwk_for_bundle)).collect();
    let mut document = json!({"keys": keys, "spiffe_sequence": bundle.sequence()});
    if let Some(hint) = refresh_hint {
        document["spiffe_refresh_hint"] = hint.as_secs().into();
    }
    document.to_string()
}

impl Document {
    /// The document of `domain`. Elements of an unknown type or use, and those for certificates that have none in `x5c`, are passed over; of
    /// several in `x5c` the first one counts (s.4.1.3, s.4.2.2, X.509-SVID s.6.2). Any other mistake refuses the whole, so that half of a
    /// bundle is never in force.
    ///
    /// # Errors
    /// In words: it is no such document, a certificate is none that signs for this trust domain, or there is too much of it.
    pub fn read(domain: &TrustDomain, text: &[u8]) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("it has {} bytes, more than {MAX_BYTES}", text.len()));
        }
        let whole: Whole =
            serde_json::from_slice(text).map_err(|error| format!("it is no SPIFFE bundle document: {error}"))?;
        let (mut roots, mut keys) = (Vec::new(), Vec::new());
        for (at, element) in whole.keys.into_iter().enumerate() {
            let usage = element["use"].as_str().unwrap_or_default().to_owned();
            if !element["kty"].is_string() || ![X509_SVID, JWT_SVID].contains(&&*usage) {
                continue;
            }
            let refuse = |why: String| format!("keys[{at}]: {why}");
            let element: Element = serde_json::from_value(element).map_err(|error| refuse(error.to_string()))?;
            if usage == X509_SVID {
                let Some(first) = element.x5c.iter().flatten().next() else { continue };
                let root = BASE64.decode(first).map_err(|error| refuse(format!("`x5c` is not base64: {error}")))?;
                roots.push(CertificateDer::from(root));
            } else if matches!(element.members.kty.as_deref(), Some("EC" | "RSA")) {
                let kid = element.kid.unwrap_or_default();
                keys.push(JwtKey::from_jwk(&kid, &element.members).map_err(refuse)?);
            }
        }
        if roots.len().max(keys.len()) > MAX_KEYS {
            return Err(format!("it has more than {MAX_KEYS} keys of one use"));
        }
        let bundle = TrustBundle::new(domain.clone(), roots).and_then(|bundle| bundle.with_jwt_keys(keys));
        let bundle = bundle.map_err(|error| error.to_string())?.with_sequence(whole.spiffe_sequence.unwrap_or(0));
        let refresh_hint = whole.spiffe_refresh_hint.map(Duration::from_secs);
        Ok(Self { bundle, sequence: whole.spiffe_sequence, refresh_hint })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;
    use crate::ca::Ca;
    use crate::jwt_signer::JwtSigner;

    fn domain(name: &str) -> TrustDomain {
        name.parse().expect("legal")
    }

    fn bundle(name: &str) -> TrustBundle {
        signed_by(name, &JwtSigner::from_pkcs8(&JwtSigner::make().expect("a key")).expect("a key"))
    }

    fn signed_by(name: &str, signer: &JwtSigner) -> TrustBundle {
        let root = Ca::root(&domain(name), SystemTime::now(), Duration::from_secs(3600)).expect("a root");
        let bundle = TrustBundle::new(domain(name), vec![root.certificate().clone()]).expect("a bundle");
        let key = JwtKey::from_spki(&signer.kid(), signer.spki().to_vec()).expect("a key");
        bundle.with_jwt_keys(vec![key]).expect("one key").with_sequence(u64::MAX)
    }

    fn changed(change: impl FnOnce(&mut Value)) -> Result<Document, String> {
        let mut document = serde_json::from_str(&write(&bundle("west.test"), None)).expect("JSON");
        change(&mut document);
        Document::read(&domain("west.test"), document.to_string().as_bytes())
    }

    #[test]
    fn a_document_reads_back_as_the_bundle_that_it_is_of() {
        let bundle = bundle("west.test");
        let text = write(&bundle, Some(Duration::from_secs(300)));
        let read = Document::read(&domain("west.test"), text.as_bytes()).expect("a document");
        assert!(read.bundle.says_the_same(&bundle));
        assert_eq!((read.sequence, read.bundle.sequence()), (Some(u64::MAX), u64::MAX));
        assert_eq!(read.refresh_hint, Some(Duration::from_secs(300)));
        let value: Value = serde_json::from_str(&text).expect("JSON");
        let [root, key] = &value["keys"].as_array().expect("a list")[..] else { panic!("{text}") };
        assert_eq!((&root["use"], &key["use"]), (&json!("x509-svid"), &json!("jwt-svid")));
        assert!(root["kid"].is_null() && root["kty"] == "EC" && key["kid"].is_string() && key["x5c"].is_null());
    }

    /// X.509-SVID s.6.1 and JWT-SVID s.6.1, to the letter.
    #[test]
    fn each_published_key_has_the_members_of_its_use_and_no_others() {
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        let roots = [(), ()].map(|()| Ca::root(&domain("west.test"), now, hour).expect("a root"));
        let bundle = bundle("west.test");
        let both = roots.iter().map(|root| root.certificate().clone()).collect();
        let both = TrustBundle::new(domain("west.test"), both).expect("a bundle");
        let both = both.with_jwt_keys(bundle.jwt().keys().to_vec()).expect("one key");
        let value: Value = serde_json::from_str(&write(&both, None)).expect("JSON");
        let [first, second, token] = &value["keys"].as_array().expect("a list")[..] else { panic!("{value}") };
        let names = |key: &Value| {
            let names: BTreeSet<_> = key.as_object().expect("a map").keys().cloned().collect();
            Vec::from_iter(names).join(" ")
        };
        for (key, root) in [first, second].into_iter().zip(&roots) {
            assert_eq!(names(key), "crv kty use x x5c y");
            assert_eq!(key["x5c"], json!([BASE64.encode(root.certificate())]), "one, whole, in plain base64");
            let point = parse(root.certificate()).expect("a certificate").public_key().subject_public_key.data.to_vec();
            let written = ["x", "y"].map(|member| {
                base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(key[member].as_str().expect("text")).expect("base64url")
            });
            assert_eq!([&[4][..], &written.concat()].concat(), point, "the key is that of the certificate");
            let parsed = parse(root.certificate()).expect("a certificate");
            let own =
                aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1, &point);
            let is_signed = own.verify(parsed.tbs_certificate.as_ref(), &parsed.signature_value.data).is_ok();
            assert!(is_signed && parsed.issuer() == parsed.subject(), "it is self-signed");
        }
        assert_eq!(names(token), "crv kid kty use x y");
        assert_eq!((&token["use"], &token["kid"]), (&json!("jwt-svid"), &json!(both.jwt().keys()[0].kid())));
    }

    #[test]
    fn an_entry_without_a_certificate_is_ignored_and_of_several_in_one_the_first_counts() {
        let other = Ca::root(&domain("west.test"), SystemTime::now(), Duration::from_secs(60)).expect("a root");
        let other = BASE64.encode(other.certificate());
        let roots = |x5c: Value| {
            let read = changed(|document| {
                let mut key = document["keys"][0].clone();
                key["x5c"] = x5c;
                document["keys"].as_array_mut().expect("a list").push(key);
            });
            let roots = read.expect("a document").bundle.roots().to_vec();
            roots.iter().skip(1).map(|root| BASE64.encode(root)).collect::<Vec<_>>()
        };
        for nothing in [json!([]), json!(null)] {
            assert!(roots(nothing.clone()).is_empty(), "{nothing}, and the rest is used");
        }
        assert_eq!(roots(json!([other, "AAAA", "7"])), [other]);
        // A `kid` must not be published there; nobody says that a reader minds.
        assert!(changed(|document| document["keys"][0]["kid"] = json!("x")).is_ok());
    }

    #[test]
    fn only_keys_for_tokens_judge_tokens_and_only_roots_judge_certificates() {
        use crate::jwt::{JwtError, validate};
        use crate::{Audience, jwk};
        let signer = JwtSigner::from_pkcs8(&JwtSigner::make().expect("a key")).expect("a key");
        let document = write(&signed_by("west.test", &signer), None);
        let now = SystemTime::now();
        let audience = Audience::new(vec!["db".to_owned()]).expect("one");
        let id = "spiffe://west.test/web".parse().expect("legal");
        let token = signer.sign(&id, &audience, now, now + Duration::from_secs(60)).expect("a token");
        let judge = |change: &dyn Fn(&mut Value)| {
            let mut document = serde_json::from_str(&document).expect("JSON");
            change(&mut document);
            let read = Document::read(&domain("west.test"), document.to_string().as_bytes()).expect("a document");
            (
                read.bundle.roots().len(),
                validate(&token, "db", |_| Some(read.bundle.jwt().clone()), now).map(|it| it.id),
            )
        };
        assert_eq!(judge(&|_| {}), (1, Ok(id)));
        // The very key under another use, and beside a certificate.
        let (roots, judged) = judge(&|document| {
            document["keys"][1]["use"] = json!(jwk::X509_SVID);
            document["keys"][1]["x5c"] = document["keys"][0]["x5c"].clone();
        });
        assert!(roots == 2 && matches!(judged, Err(JwtError::UnknownKey(_))), "{judged:?}");
        // A bundle of keys for tokens alone vouches for no certificate.
        let (roots, judged) = judge(&|document| {
            document["keys"][0]["use"] = json!(jwk::JWT_SVID);
            document["keys"][0]["kid"] = json!("root");
        });
        assert!(roots == 0 && judged.is_ok(), "{judged:?}");
    }

    #[test]
    fn elements_that_nobody_knows_are_passed_over() {
        let read = changed(|document| {
            document["more"] = json!({"x": 1});
            let keys = document["keys"].as_array_mut().expect("a list");
            let mut without_use = keys[0].clone();
            without_use.as_object_mut().expect("a map").remove("use");
            let mut other_use = keys[0].clone();
            other_use["use"] = json!("X509-SVID");
            let mut without_x5c = keys[0].clone();
            without_x5c.as_object_mut().expect("a map").remove("x5c");
            keys.extend([without_use, other_use, without_x5c, json!({"kty": "OKP", "use": "jwt-svid"}), json!(7)]);
        });
        let read = read.expect("a document");
        assert_eq!((read.bundle.roots().len(), read.bundle.jwt().keys().len()), (1, 1));
        let none = changed(|document| document["keys"] = json!([])).expect("a document");
        assert!(none.bundle.roots().is_empty(), "it trusts nobody");
    }

    #[test]
    fn half_of_a_bundle_is_none() {
        for (change, why) in [
            (
                Box::new(|document: &mut Value| document["keys"] = json!(null)) as Box<dyn Fn(&mut Value)>,
                "no SPIFFE bundle",
            ),
            (Box::new(|document| document["spiffe_sequence"] = json!(-1)), "no SPIFFE bundle"),
            (Box::new(|document| document["keys"][0]["x5c"] = json!(["A"])), "not base64"),
            (Box::new(|document| document["keys"][0]["x5c"] = json!(["AAAA"])), "malformed"),
            (Box::new(|document| document["keys"][1]["kid"] = json!("")), "no `kid`"),
            (Box::new(|document| document["keys"][1]["x"] = json!("AA")), "another length"),
            (
                Box::new(|document| {
                    let key = document["keys"][1].clone();
                    document["keys"].as_array_mut().expect("a list").push(key);
                }),
                "two keys",
            ),
            (
                Box::new(|document| {
                    let key = document["keys"][0].clone();
                    document["keys"] = vec![key; MAX_KEYS + 1].into();
                }),
                "more than 64",
            ),
        ] {
            let error = changed(|document| change(document)).expect_err(why);
            assert!(error.contains(why), "{error} / {why}");
        }
        let twice = br#"{"keys": [], "keys": []}"#;
        assert!(Document::read(&domain("west.test"), twice).expect_err("twice").contains("duplicate"));
        let long = vec![b' '; MAX_BYTES + 1];
        assert!(Document::read(&domain("west.test"), &long).expect_err("long").contains("bytes"));
    }

    #[test]
    fn a_document_of_another_trust_domain_is_refused() {
        let text = write(&bundle("west.test"), None);
        let error = Document::read(&domain("east.test"), text.as_bytes()).expect_err("foreign");
        assert!(error.contains("spiffe://west.test"), "{error}");
    }

    proptest! {
        #[test]
        fn a_strangers_text_never_panics(text in "(?s)\\PC{0,60}", usage in "(x509-svid|jwt-svid)", value in "[A-Za-z0-9_-]{0,12}") {
            let _ = Document::read(&domain("west.test"), text.as_bytes());
            for kty in ["EC", "RSA"] {
                let key = json!({"use": usage, "kty": kty, "kid": "x", "crv": "P-256", "x": value, "y": value, "n": value, "e": value, "x5c": [value]});
                let _ = Document::read(&domain("west.test"), json!({"keys": [key]}).to_string().as_bytes());
            }
        }
    }
}
